"""Mistakes in what is added to a UNet: a ControlNet's and a T2I-Adapter's residuals, IP-Adapters, motion modules."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from diffusers import ControlNetModel, ControlNetXSAdapter, MotionAdapter, MultiAdapter, T2IAdapter, UNetMotionModel
from torch import Tensor, nn

from tests.atlas.bases import Base
from tests.atlas.mutations import Inputs, Mutation, batch_of, nearest, resized, right_inputs, run
from tests.tiny import Config
from unetinspect.record import InputInfo

_CONTROL, _MID, _INTRABLOCK = "down_block_additional_residuals", "mid_block_additional_residual", "down_intrablock_additional_residuals"
_CLIP = 103  # width of an image encoder's embedding
_HOSTS = ("conditioned", "unet3d", "motion")


def with_residuals(base: Base, model: Any) -> Iterator[Base]:
    """Yield the base with the inputs that a ControlNet fills, and with those that a T2I-Adapter fills, where its class has them."""
    if base.name not in _HOSTS:
        return
    shapes, mid = _residual_shapes(base, model)
    axes = ("batch" if base.name == "conditioned" else "batch * frames", "channels", "height", "width")
    control = [InputInfo(name=f"{_CONTROL}.{place}", shape=shape, dtype="float", axes=axes) for place, shape in enumerate(shapes)]
    yield base._replace(
        name=f"{base.name}+control", specs=(*base.specs, *control, InputInfo(name=_MID, shape=mid, dtype="float", axes=axes))
    )
    if _INTRABLOCK in inspect.signature(model.forward).parameters:
        layers = base.config["layers_per_block"]
        features = [shapes[1 + place * (layers + 1)] for place in range(len(model.down_blocks))]
        specs = (InputInfo(name=f"{_INTRABLOCK}.{place}", shape=shape, dtype="float", axes=axes) for place, shape in enumerate(features))
        yield base._replace(name=f"{base.name}+adapter", specs=(*base.specs, *specs))


def _residual_shapes(base: Base, model: Any) -> tuple[list[tuple[int, ...]], tuple[int, ...]]:
    """Return the shapes of what the down blocks hand to the up blocks, and that of the mid block's output."""
    seen: dict[nn.Module, Any] = {}
    hooks = [part.register_forward_hook(lambda part, _, out: seen.update({part: out})) for part in model.modules()]
    run(model, right_inputs(base))
    for hook in hooks:
        hook.remove()
    skips = [seen[model.conv_in], *(skip for block in model.down_blocks for skip in seen[block][1])]
    return [tuple(skip.shape) for skip in skips], tuple(seen[model.mid_block].shape)


def residual_mutations(base: Base, used: set[int]) -> Iterator[Mutation]:
    """Yield mistakes in all residuals of a base at once: those of another UNet, another size or batch, too few, in another order."""
    for name in (_CONTROL, _INTRABLOCK):
        shapes = [spec.shape for spec in base.specs if spec.name.startswith(f"{name}.") and spec.shape is not None]
        if not shapes:
            continue
        batch, channels, height, _ = shapes[0]
        other = nearest(channels, used, up=True)
        of_another = [("channels", other, channels), ("height", 2 * height, height), ("batch", 2 * batch, batch)]
        for axis, given, expected in of_another:
            call = partial(_rearranged, name, partial(_of_another, axis, given - expected))
            yield Mutation("residual", name, axis, call, {"given": given, "expected": expected}, f"{name}.{axis}")
        for axis, rearrange in _REARRANGED.items():
            yield Mutation("residual", name, axis, partial(_rearranged, name, rearrange))


_REARRANGED: dict[str, Callable[[list[Tensor]], Any]] = {
    "too few": lambda them: them[:-1],
    "too many": lambda them: [*them, them[-1]],
    "order": lambda them: them[::-1],
    "not a list": lambda them: them[0],
    "empty": lambda them: [],
}


def _of_another(axis: str, more: int, them: list[Tensor]) -> list[Tensor]:
    """Return residuals of a UNet with more channels, of twice the size, or of twice the batch."""
    if axis == "batch":
        return [torch.cat([part, part]) for part in them]
    if axis == "channels":
        return [resized(part, 1, part.shape[1] + more) for part in them]
    return [torch.zeros(*part.shape[:2], 2 * part.shape[2], 2 * part.shape[3]) for part in them]


def _rearranged(name: str, change: Callable[[list[Tensor]], Any], model: Any, inputs: Inputs) -> None:
    kept = {key: value for key, value in inputs.items() if not key.startswith(f"{name}.")}
    run(model, {**kept, name: change([value for key, value in inputs.items() if key not in kept])})


def frame_mutations(base: Base) -> Iterator[Mutation]:
    """Yield more frames, in all inputs, than the motion modules have positions for."""
    most = base.config.get("motion_max_seq_length")
    if most is None:
        return
    more, longer, frames = most + 4, {}, 0
    for spec in base.specs:
        for place, axis in enumerate(spec.axes):
            if "frames" in axis:
                longer[spec.name] = (place, more * batch_of(base) if "batch" in axis else more)
            if axis == "frames" and spec.shape is not None:
                frames = spec.shape[place]

    def call(model: Any, inputs: Inputs) -> object:
        return run(model, {name: resized(value, *longer[name]) if name in longer else value for name, value in inputs.items()})

    yield Mutation("size", "sample", "frames", call, {"given": more, "expected": frames}, "sample.frames")


def image_adapter(base: Base, model: Any) -> tuple[Base, dict[str, dict[str, Tensor]]] | None:
    """Return the base with the image embedding that an IP-Adapter asks for, and the adapter's weights; None where none is tried."""
    if base.name not in ("conditioned", "text-time"):
        return None
    text = base.config["cross_attention_dim"]
    # The cross-attentions: those on the way down, on the way up, and of the mid block, which comes last among the processors.
    widths = [layer.to_k.out_features for name, layer in model.named_modules() if name.endswith("attn2")]
    weights = {
        "image_proj": {
            "proj.weight": torch.zeros(4 * text, _CLIP),
            "proj.bias": torch.zeros(4 * text),
            "norm.weight": torch.zeros(text),
            "norm.bias": torch.zeros(text),
        },
        "ip_adapter": {
            f"{2 * place + 1}.{name}.weight": torch.zeros(width, text)
            for place, width in enumerate(widths)
            for name in ("to_k_ip", "to_v_ip")
        },
    }
    spec = InputInfo(
        name="added_cond_kwargs.image_embeds.0", shape=(batch_of(base), 1, _CLIP), dtype="float", axes=("batch", "images", "clip_dim")
    )
    return base._replace(name=f"{base.name}+ip-adapter", specs=(*base.specs, spec)), weights


def ip_adapter_mutations(
    base: Base, weights: dict[str, dict[str, Tensor]], used: set[int], build: Callable[[str, Config], Any]
) -> Iterator[Mutation]:
    """Yield an IP-Adapter of another model: its weights have other widths, or some are missing."""

    def loading(changed: dict[str, dict[str, Tensor]]) -> Callable[[Any, Inputs], object]:
        def call(model: Any, inputs: Inputs) -> object:
            fresh = build(base.class_name, base.config)
            fresh._load_ip_adapter_weights([changed])
            return run(fresh, inputs)

        return call

    for part, tensors in weights.items():
        for name, tensor in tensors.items():
            for place, length in enumerate(tensor.shape):
                other = nearest(length, used, up=True)
                changed = {**weights, part: {**tensors, name: resized(tensor, place, other)}}
                yield Mutation("ip_adapter", name.lstrip("0123456789."), str(place), loading(changed), {"given": other, "expected": length})
            missing = {**weights, part: {key: value for key, value in tensors.items() if key != name}}
            yield Mutation("ip_adapter", name.lstrip("0123456789."), "missing", loading(missing))
        yield Mutation("ip_adapter", part, "missing", loading({key: value for key, value in weights.items() if key != part}))
    text = base.config["cross_attention_dim"]
    other = nearest(text, used, up=True)
    whole = {part: {name: _of_text(tensor, text, other) for name, tensor in tensors.items()} for part, tensors in weights.items()}
    lengths = {"given": other, "expected": text}
    yield Mutation("ip_adapter", "ip_adapter", "cross_attention_dim", loading(whole), lengths, "encoder_hidden_states.cross_attention_dim")
    projection = {**weights, "image_proj": whole["image_proj"]}
    yield Mutation(
        "ip_adapter", "image_proj", "cross_attention_dim", loading(projection), lengths, "encoder_hidden_states.cross_attention_dim"
    )


def _of_text(tensor: Tensor, text: int, other: int) -> Tensor:
    return torch.zeros([length // text * other if length % text == 0 else length for length in tensor.shape])


def made_of_others(build: Callable[[str, Config], Any], unet: Base) -> Iterator[tuple[str, Mutation]]:
    """Yield mistakes in models that are made of other models, each with the class that raises it. None reads its inputs."""
    for net in (ControlNetModel, ControlNetXSAdapter):
        yield net.__name__, Mutation("config", "mid_block_type", "null", partial(_from_unet_without_mid, net, build, unet))
    channels = unet.config["block_out_channels"]
    fitting = {"block_out_channels": channels, "motion_num_attention_heads": 2, "motion_norm_num_groups": 2, "motion_layers_per_block": 1}
    for key, wrong in (
        ("block_out_channels", [width + 4 for width in channels]),
        ("block_out_channels", [*channels, channels[-1]]),
        ("motion_layers_per_block", 2),
        ("motion_mid_block_layers_per_block", 2),
        ("use_motion_mid_block", False),
        ("conv_in_channels", 3),
    ):
        yield "UNetMotionModel", Mutation("adapter", key, "motion adapter", partial(_with_motion, {**fitting, key: wrong}))
    for axis, others in _SEVERAL_ADAPTERS.items():
        yield "MultiAdapter", Mutation("adapter", "adapters", axis, partial(_several_adapters, others))


_SEVERAL_ADAPTERS: dict[str, list[Config]] = {
    "none": [],
    "one": [{}],
    "downscale_factor": [{}, {"downscale_factor": 8}],
    "channels": [{}, {"channels": [34, 46]}],
    "depth": [{}, {"channels": [34]}],
    "adapter_type": [{}, {"adapter_type": "light_adapter"}],
}


def _from_unet_without_mid(net: Any, build: Callable[[str, Config], Any], unet: Base, model: Any, inputs: Inputs) -> None:
    net.from_unet(build(unet.class_name, {**unet.config, "mid_block_type": None}))


def _with_motion(config: Config, model: Any, inputs: Inputs) -> None:
    UNetMotionModel.from_unet2d(model, MotionAdapter(**config))


def _several_adapters(configs: list[Config], model: Any, inputs: Inputs) -> None:
    adapters = [T2IAdapter(**{"channels": [34, 38], "num_res_blocks": 1, "downscale_factor": 4, **config}) for config in configs]
    several: Any = MultiAdapter(adapters)
    several([torch.zeros(1, 3, 16, 16)] * len(adapters))
