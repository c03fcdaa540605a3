"""Captured maps, features and skips equal those of independent references, and the UNet computes what it computes without them."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable
from functools import cache, partial
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from diffusers.models.attention_processor import AttnProcessor
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional
from torch.utils._pytree import tree_leaves, tree_map_only

from tests.attention_reference import Reference, attend_and_excite, without_skip
from tests.pipelines import unet as small_unet
from tests.test_live import snapshot
from tests.tiny import ALL, OF_EACH_CLASS, some, traced_once
from tests.witness import LiveBytes
from unetinspect import ConfigError, ForwardError, Trace, UsageError, capture, features, maps, skips
from unetinspect.run.build import make_inputs

# Of a class whose small models are large at their own size.
LATENT = {"Kandinsky3UNet": (32, 32)}
UNETS = [kind for kind, config in ALL.items() if config["_class_name"] not in ("ControlNetModel", "ControlNetUnionModel", "T2IAdapter")]


class Live:
    """A small model with random weights and its random inputs.

    Attributes:
        record: Its trace at the size of the inputs.
        unet: The model.
        inputs: The arguments of `forward`.
    """

    def __init__(self, kind: str, **options: Any) -> None:
        latent = LATENT.get(ALL[kind]["_class_name"])
        self.record: Trace = traced_once(ALL[kind], **({"latent": latent} if latent else {}), **options)
        self.unet = small_unet(self.record.model.given_config)
        self.inputs = self.drawn(seed=0)

    def drawn(self, seed: int, dtype: torch.dtype = torch.float32) -> dict[str, Any]:
        """Draw inputs; the timestep is 7."""
        generator = torch.Generator().manual_seed(seed)
        zeros = make_inputs(self.record.run.inputs, device=torch.device("cpu"), dtype=dtype)
        drawn = partial(torch.randn, generator=generator)
        inputs = tree_map_only(Tensor, lambda x: drawn(x.shape).to(x.dtype) if x.is_floating_point() and x.ndim > 1 else x, zeros)
        return {**inputs, "timestep": torch.tensor(7)} if "timestep" in inputs else inputs

    def run(self, *taps: Any, **options: Any) -> tuple[Any, list[Tensor]]:
        """Run one pass while capturing; return what was captured, and the tensors of the output."""
        with torch.no_grad(), capture(self.unet, *taps, plan=self.record, **options) as seen:
            output = tensors(self.unet(**self.inputs))
        return seen, output

    def plain(self) -> list[Tensor]:
        """Run one pass without capturing."""
        with torch.no_grad():
            return tensors(self.unet(**self.inputs))


def tensors(output: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(output.to_tuple()) if isinstance(leaf, Tensor)]


def equal(one: list[Tensor], other: list[Tensor]) -> bool:
    return len(one) == len(other) > 0 and all(map(torch.equal, one, other))


WITHOUT_SKIPS = ("uvit", "sparse-controlnet")
WHOLE: dict[str, Any] = {"heads": None, "steps": None}


@pytest.mark.parametrize("kind", [kind for kind in some(UNETS, 12) if kind != "no-cross-attention"])
def test_each_map_and_skip_of_each_kind_is_that_of_unfused_attention_and_of_the_record(kind: str) -> None:
    """The output is the same to the last bit, with layers that run several times, too."""
    live = Live(kind)
    reference = Reference(live.unet)
    joined: list[Tensor] = []
    cat = torch.cat

    def recorded(tensors: Any, *args: Any, **kwargs: Any) -> Tensor:
        joined.extend(tensors[1:2])
        return cat(tensors, *args, **kwargs)

    with torch.no_grad():
        reference.unet(**live.inputs)
    with mock.patch("torch.cat", recorded):
        plain = live.plain()
    taps = [maps(**WHOLE)] * bool(live.record.attentions) + [skips()] * bool(live.record.skips)
    seen, output = live.run(*taps)
    captured = defaultdict(list)
    for one in seen.maps:
        captured[one.path].append(one.tensor.flatten(0, -3))

    assert equal(output, plain)
    assert captured.keys() == reference.maps.keys()
    for path, expected in reference.maps.items():
        torch.testing.assert_close(captured[path], expected, atol=1e-5, rtol=0)
        assert all((probs.sum(-1) - 1).abs().max() < 1e-5 for probs in captured[path])
    assert Counter((one.path, one.kind, (one.tensor.shape[1:3].numel(), *one.tensor.shape[3:])) for one in seen.maps) == Counter(
        (layer.path, layer.kind, layer.map_shape) for layer in live.record.attentions
    )
    assert Counter((one.path, one.source, one.tensor.shape[1:]) for one in seen.skips) == Counter(
        (skip.target, skip.source, skip.shape) for skip in live.record.skips
    )
    assert all(any(torch.equal(one.tensor[0], operand) for operand in joined) for one in seen.skips)


@cache
def three_passes() -> tuple[Live, dict[str, np.ndarray]]:
    """Return a small UNet, and each map of three passes by path, (step, image, head, query, token)."""
    live = Live("conditioned")
    reference = Reference(live.unet)
    with torch.no_grad():
        for seed in range(3):
            reference.unet(**live.drawn(seed))
    return live, {path: torch.stack(found).unflatten(1, (2, -1)).double().numpy() for path, found in reference.maps.items()}


FOLDS: dict[str | None, Callable[..., np.ndarray]] = {
    None: lambda array, axis: array,
    **{name: getattr(np, name) for name in ("mean", "max", "var", "sum")},
    "last": lambda array, axis: array[-1],
}
AXES = ("step", "image", "head", "query", "token")


@settings(max_examples=8, phases=[Phase.explicit, Phase.reuse, Phase.generate])  # shrinking takes minutes
@given(
    heads=st.sampled_from([None, "mean", "max", "var"]),
    queries=st.one_of(st.none(), st.just("mean"), st.lists(st.tuples(st.integers(0, 7), st.integers(0, 7)), min_size=1, max_size=3)),
    tokens=st.one_of(
        st.none(), st.lists(st.integers(0, 63), min_size=1, max_size=3), st.builds(slice, st.integers(0, 9), st.integers(10, 64))
    ),
    steps=st.sampled_from([None, "mean", "sum", "last"]),
    rows=st.sampled_from(["all", slice(1, 2)]),
    budget=st.sampled_from([300_000, 1 << 26]),
)
def test_every_fold_is_that_of_the_whole_maps_and_holds_what_its_axes_say(
    heads: Any, queries: Any, tokens: Any, steps: Any, rows: Any, budget: int
) -> None:
    """Streamed over steps, and in chunks of any size: as if the whole maps were there; and nothing else is held."""
    live, whole = three_passes()
    tap = maps(heads=heads, queries=queries, tokens=tokens, steps=steps)
    with torch.no_grad(), capture(live.unet, tap, rows=rows, budget=budget, plan=live.record) as seen:
        for seed in range(3):
            live.unet(**live.drawn(seed))
    for one in seen.maps:
        assert one.grid is not None
        height, width = one.grid
        expected = whole[one.path][:, slice(None) if rows == "all" else rows]
        expected = FOLDS[heads](expected, axis=2)
        query_axis = -2
        if isinstance(queries, list):
            expected = expected[..., [y * width + x for y, x in queries], :]
        elif queries == "mean":
            expected = expected.mean(query_axis)
        expected = expected if tokens is None else expected[..., tokens]
        expected = FOLDS[steps](expected, axis=0)
        folded = {"step": steps, "head": heads, "query": queries == "mean"}

        assert height * width == whole[one.path].shape[-2]
        assert one.axes == tuple(axis for axis in AXES if not folded.get(axis))
        assert one.tensor.dtype == torch.float32
        np.testing.assert_allclose(one.tensor.numpy(), expected, atol=1e-5)
        assert one.tensor.untyped_storage().nbytes() == 4 * expected.size


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_computed_in_float32(dtype: torch.dtype) -> None:
    """The same queries and keys in float64 give the same maps; autocast of a float32 UNet, too."""
    live = Live("conditioned")
    operands: list[tuple[Tensor, Tensor]] = []
    attend = functional.scaled_dot_product_attention

    def recorded(query: Tensor, key: Tensor, value: Tensor, **kwargs: Any) -> Tensor:
        operands.append((query.double(), key.double()))
        return attend(query, key, value, **kwargs)

    with torch.no_grad(), torch.autocast("cpu", dtype), mock.patch.object(functional, "scaled_dot_product_attention", recorded):
        live.unet(**live.inputs)
    with torch.autocast("cpu", dtype):
        seen, output = live.run(maps(**WHOLE))
        assert equal(output, live.plain())

    for one, (query, key) in zip(seen.maps, operands, strict=True):
        expected = (query @ key.mT / query.shape[-1] ** 0.5).softmax(-1)
        assert (one.tensor[0] - expected).abs().max() <= 1e-5


@pytest.mark.parametrize(
    "given",
    [
        {"attn_mask": torch.arange(6)[None] < 4},
        {"attn_mask": torch.linspace(-2, 2, 6)[None], "scale": 0.3},
        {"is_causal": True},
        {"enable_gqa": True},
    ],
    ids=["boolean mask", "mask and scale", "causal", "grouped"],
)
def test_the_arguments_of_fused_attention_are_honored(given: dict[str, Any]) -> None:
    """As in a product with the unit matrix, whose result is the map itself."""
    live = Live("conditioned")
    layer = live.unet.mid_block.attentions[0].transformer_blocks[0].attn2
    generator = torch.Generator().manual_seed(0)
    query = torch.randn(2, 4, 5, 8, generator=generator)
    key = torch.randn(2, 2 if "enable_gqa" in given else 4, 6, 8, generator=generator)
    results: list[Tensor] = []

    class Own:
        def __call__(self, attn: Any, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Tensor:
            results.append(functional.scaled_dot_product_attention(query, key, torch.eye(6).expand(*key.shape[:2], 6, 6), **given))
            return hidden_states

    layer.set_processor(Own())
    seen, _ = live.run(maps(stage="mid_block", kind="cross", **WHOLE))
    changed, _ = live.run(maps(stage="mid_block", kind="cross", change=lambda probs, at: probs * 2, keep=False))

    torch.testing.assert_close(seen.maps[0].tensor[0], results[0], atol=1e-6, rtol=0)
    with torch.autocast("cpu", torch.bfloat16):
        cast, _ = live.run(maps(stage="mid_block", kind="cross", **WHOLE))
    query, key = query.bfloat16().double(), key.bfloat16().double()
    results.clear()
    given = {name: value.double() if isinstance(value, Tensor) and value.is_floating_point() else value for name, value in given.items()}
    exact = functional.scaled_dot_product_attention(query, key, torch.eye(6).double().expand(*key.shape[:2], 6, 6), **given)

    torch.testing.assert_close(cast.maps[0].tensor[0].double(), exact, atol=1e-5, rtol=0)
    assert changed.maps == ()
    assert repr(seen) == "<Seen: 1 map, 0 features, 0 skips>"


def test_a_unet_that_differs_from_its_config_is_named_by_the_path() -> None:
    """A layer too many and a layer too few; a trace of the UNet itself is the plan then."""
    for change, path in ((lambda unet: setattr(unet, "mid_block", nn.Identity()), "'mid_block.attentions.0"), (_with_a_layer, "'extra'")):
        unet = small_unet("conditioned")
        change(unet)
        with pytest.raises(ConfigError, match=path), capture(unet, maps()):
            pass


def _with_a_layer(unet: Any) -> None:
    unet.extra = type(unet.mid_block.attentions[0].transformer_blocks[0].attn1)(8)


def test_the_maps_of_torchs_own_attention_layer_are_refused_by_name() -> None:
    """`MultiheadAttention` computes its product where no mode sees it."""
    with (
        pytest.raises(UsageError, match=r"transformer_layes\.0\.attn is torch's MultiheadAttention"),
        capture(small_unet("controlnet-union"), maps()),
    ):
        pass


def test_two_folds_of_the_same_layers_are_told_apart() -> None:
    """Means and variances are never averaged into one heat map."""
    live = Live("conditioned")
    seen, _ = live.run(maps(kind="cross"), maps(kind="cross", heads="var"), rows=slice(0, 1))
    alone, _ = live.run(maps(kind="cross", heads="var"), rows=slice(0, 1))

    assert [one.tap for one in seen.maps] == [0] * 4 + [1] * 4
    assert np.array_equal(seen.heat(1, tap=1).array, alone.heat(1).array)
    with pytest.raises(UsageError, match="taps 0, 1") as caught:
        seen.heat(1)
    assert caught.value.hint == "choose one: tap=0"


def state(unet: nn.Module) -> tuple[Any, ...]:
    """Return all that a capture could leave behind."""
    hooks = [value for name, value in vars(nn.modules.module).items() if name.startswith("_global_") and "hooks" in name]
    stacks = torch._C._len_torch_function_stack(), torch._C._len_torch_dispatch_stack()
    return snapshot(unet), repr(hooks), stacks, torch.is_grad_enabled(), torch._dynamo.eval_frame._stance.stance


class Stopped(AttnProcessor):
    """A processor that raises at its third call."""

    def __init__(self, error: BaseException) -> None:
        self.error, self.calls = error, 0

    def __call__(self, *args: Any, **kwargs: Any) -> Tensor:
        self.calls += 1
        if self.calls == 3:
            raise self.error
        return super().__call__(*args, **kwargs)


@pytest.mark.parametrize("error", [None, ValueError("no such step"), KeyboardInterrupt()], ids=["success", "exception", "interrupt"])
def test_a_capture_leaves_no_trace(error: BaseException | None) -> None:
    """Hooks, processors, attributes, parameters and modes are as before, also after Ctrl-C in the midst of a layer."""
    live = Live("conditioned")
    live.unet.set_attn_processor(Stopped(error) if error else AttnProcessor())
    before = state(live.unet)
    taps = [maps(change=lambda probs, at: probs), features("mid_block", "conv_in"), skips(scale=0.5)]
    if error:
        with pytest.raises(type(error)) as caught:
            live.run(*taps)
        assert caught.value is error
    else:
        live.run(*taps)

    assert state(live.unet) == before


@pytest.mark.parametrize(
    ("taps", "message"),
    [
        ([maps(), features("mid_blok")], "mid_blok"),
        ([maps(kind="joint")], "no layer matches; this UNet has self, cross attention at 8x8, 16x16 in"),
        ([skips(), maps(change=lambda probs, at: probs), maps(kind="cross", change=lambda probs, at: probs)], "change"),
        ([maps(), skips(target="up_blocks.7")], "up_blocks.7"),
    ],
    ids=["path", "selection", "two changes", "skip"],
)
def test_a_capture_that_cannot_start_leaves_no_trace(taps: list[Any], message: str) -> None:
    """One sentence says why, and a hint what to write instead."""
    live = Live("conditioned")
    before = state(live.unet)
    with pytest.raises(UsageError, match=message) as caught:
        live.run(*taps)

    assert caught.value.hint
    assert state(live.unet) == before


def test_an_unknown_path_has_the_nearest_as_its_hint() -> None:
    """As other commands answer a typing mistake."""
    with pytest.raises(UsageError) as caught:
        Live("conditioned").run(features("mid_blok"))

    assert "mid_block" in (caught.value.hint or "")


def test_two_changes_of_one_layer_are_refused_across_nested_captures_and_two_views_are_not() -> None:
    """Captures inside one another each see the layer; only one can change it."""
    live = Live("conditioned")
    plain, _ = live.run(maps(**WHOLE))
    with capture(live.unet, maps(**WHOLE)) as outer:
        inner, _ = live.run(maps(change=lambda probs, at: probs, **WHOLE))
        with pytest.raises(UsageError, match="change"), capture(live.unet, maps(change=lambda probs, at: probs)):
            live.run(maps(change=lambda probs, at: probs))

    for one, seen, changed in zip(plain.maps, outer.maps, inner.maps, strict=True):
        assert torch.allclose(one.tensor, seen.tensor[:1], atol=1e-5)  # of layers below a changed one, within rounding
        assert torch.allclose(one.tensor, changed.tensor, atol=1e-5)


@pytest.mark.parametrize("kind", some(["conditioned", "cascade-prior", "unet1d-audio", "simple-cross-attention", "svd"], 2))
def test_an_identity_change_changes_nothing_and_another_does(kind: str) -> None:
    """Within rounding: the product of the map with V is then computed in other steps. The labels are those of the layers."""
    live = Live(kind)
    at: list[Any] = []

    def identity(probs: Tensor, where: Any) -> Tensor:
        at.append((where, probs.shape))
        return probs

    _, output = live.run(maps(change=identity))
    _, flat = live.run(maps(change=lambda probs, _: torch.full_like(probs, 1 / probs.shape[-1])))

    torch.testing.assert_close(output, live.plain(), atol=1e-5, rtol=1e-5)
    assert (flat[0] - output[0]).abs().max() > 10 * (output[0] - live.plain()[0]).abs().max()
    assert [(where.path, where.kind, (shape[0] * shape[1], *shape[2:])) for where, shape in at] == [
        (layer.path, layer.kind, layer.map_shape) for layer in live.record.attentions
    ]


@pytest.mark.parametrize("kind", some([kind for kind in OF_EACH_CLASS.values() if kind in UNETS and kind not in WITHOUT_SKIPS], 3))
def test_a_scaled_skip_is_that_of_a_hand_made_witness(kind: str) -> None:
    """By 1 to the last bit; by 0 as if a patched `torch.cat` had joined zeros; each skip for itself."""
    live = Live(kind)
    seen, output = live.run(skips(scale=1.0))
    assert equal(output, live.plain())
    cat = torch.cat
    for skip, one in list(zip(live.record.skips, seen.skips, strict=True))[:: max(1, len(live.record.skips) - 1)]:
        ablated = 0

        def without(tensors: Any, *args: Any, operand: Tensor = one.tensor[0], **kwargs: Any) -> Tensor:
            nonlocal ablated
            if len(tensors) == 2 and torch.equal(tensors[1], operand):
                ablated += 1
                tensors = [tensors[0], torch.zeros_like(tensors[1])]
            return cat(tensors, *args, **kwargs)

        with mock.patch("torch.cat", without):
            expected = live.plain()

        assert ablated == 1
        assert equal(live.run(skips(index=skip.index, scale=0.0))[1], expected)


def test_a_changed_skip_is_what_the_targets_own_hook_makes_of_it() -> None:
    """The last channels of what the resnet takes, after FreeU, which is given them as they come."""
    live = Live("conditioned")
    live.unet.enable_freeu(s1=0.9, s2=0.2, b1=1.2, b2=1.4)
    target = "up_blocks.1.resnets.0"
    channels = next(skip.skip_channels for skip in live.record.skips if skip.target == target)
    hook = live.unet.get_submodule(target).register_forward_pre_hook(without_skip(channels))
    expected = live.plain()
    hook.remove()

    assert equal(live.run(skips(target=target, change=lambda skip, at: skip * 0))[1], expected)
    assert equal(live.run(skips(target=target, scale=0.0))[1], expected)


def test_features_are_what_hooks_see_and_can_be_injected() -> None:
    """Inputs and outputs, over steps; what another pass computed takes the place of this one's."""
    live = Live("conditioned")
    expected: list[tuple[Tensor, Tensor]] = []
    hook = live.unet.mid_block.register_forward_hook(lambda module, args, output: expected.append((args[0], output)))
    first, _ = live.run(features("mid_block"), features("mid_block", of="input"))
    hook.remove()
    live.inputs = {**live.inputs, "sample": live.inputs["sample"] * 0}
    injected = first.features[0].tensor[0]
    second, _ = live.run(features("mid_block", change=lambda tensor, at: injected), features("up_blocks.0", of="input"))

    assert [one.path for one in first.features] == ["mid_block"] * 2
    assert torch.equal(first.features[0].tensor, expected[0][1][None])
    assert torch.equal(first.features[1].tensor, expected[0][0][None])
    assert torch.equal(second.features[1].tensor[0], injected)


def test_the_extra_peak_is_the_budget_the_results_and_one_layers_queries_and_keys() -> None:
    """Maps of 1024 queries are 32 MiB a layer, and are never held."""
    live = Live("conditioned", latent=(32, 32))
    budget = 1 << 20
    with torch.no_grad(), LiveBytes() as plain:
        live.plain()
    with torch.no_grad(), LiveBytes() as capturing:
        seen, _ = live.run(maps(queries="mean"), budget=budget)
    results = sum(one.tensor.nbytes for one in seen.maps)
    layer = max(live.record.attentions, key=lambda layer: np.prod(layer.query_shape) + np.prod(layer.key_shape))
    operands = 4 * int(np.prod(layer.query_shape) + np.prod(layer.key_shape))

    assert capturing.peak - plain.peak <= budget + results + 2 * operands


def checkpointed(live: Live) -> Any:
    """Run forward and backward with gradient checkpointing."""
    live.unet.train()
    live.unet.enable_gradient_checkpointing()
    with capture(live.unet, maps(**WHOLE)) as seen:
        live.unet(**live.inputs).sample.sum().backward()
    return seen


def compiled(live: Live) -> Any:
    """Run a compiled wrapper of the UNet."""
    wrapper = torch.compile(live.unet, backend="eager")
    with torch.no_grad(), capture(wrapper, maps(**WHOLE)) as seen:
        wrapper(**live.inputs)
    return seen


def with_(prepare: Callable[[Any], Any]) -> Callable[[Live], Any]:
    """Return how to prepare the UNet and run it."""

    def run(live: Live) -> Any:
        prepare(live.unet)
        return live.run(maps(**WHOLE))[0]

    return run


def in_inference_mode(live: Live) -> Any:
    """Run in torch's inference mode."""
    with torch.inference_mode():
        return live.run(maps(**WHOLE))[0]


@pytest.mark.parametrize(
    "run",
    [
        checkpointed,
        compiled,
        with_(lambda unet: unet.compile(backend="eager")),
        with_(lambda unet: unet.set_attention_slice(1)),
        with_(lambda unet: unet.set_attn_processor(AttnProcessor())),
        with_(lambda unet: unet.fuse_qkv_projections()),
        in_inference_mode,
    ],
    ids=["checkpointing", "compiled", "compiled in place", "sliced", "unfused", "fused projections", "inference mode"],
)
def test_however_the_unet_runs_the_maps_are_the_same(run: Callable[[Live], Any]) -> None:
    """Each layer once a pass, whatever computes it."""
    plain, _ = Live("conditioned").run(maps(**WHOLE))
    seen = run(Live("conditioned"))

    for one, other in zip(seen.maps, plain.maps, strict=True):
        assert (one.path, one.kind, one.axes, one.calls) == (other.path, other.kind, other.axes, other.calls)
        torch.testing.assert_close(one.tensor, other.tensor, atol=1e-5, rtol=0)


def test_a_layer_whose_attention_cannot_be_seen_is_named_at_the_end() -> None:
    """An opaque kernel is never passed over in silence, and its complaint never hides another error."""

    class Kernel:
        def __call__(self, attn: Any, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Tensor:
            return attn.to_q(hidden_states)

    live = Live("conditioned")
    live.unet.mid_block.attentions[0].transformer_blocks[0].attn2.set_processor(Kernel())
    with pytest.raises(ForwardError, match=r"mid_block\.attentions\.0\.transformer_blocks\.0\.attn2.*Kernel") as caught:
        live.run(maps())
    with pytest.raises(ZeroDivisionError), capture(live.unet, maps()):
        raise ZeroDivisionError

    assert caught.value.hint == "unet.set_default_attn_processor()"


@pytest.mark.parametrize("latent", [(12, 20), (15, 17)])
def test_a_grid_is_found_at_any_size(latent: tuple[int, int]) -> None:
    """Not square, and odd: the queries of a point are those of its row and column."""
    live = Live("conditioned", latent=latent)
    half = tuple(-(-side // 2) for side in latent)
    seen, _ = live.run(maps(kind="cross", **WHOLE))
    points, _ = live.run(maps(kind="cross", queries=[(3, 7)], tokens_at=f"{latent[0]}x{latent[1]}", **WHOLE))

    assert [one.grid for one in seen.maps] == [latent, half, latent, latent]
    assert [one.path for one in points.maps] == [one.path for one in seen.maps if one.grid == latent]
    for one, other in zip(points.maps, (one for one in seen.maps if one.grid == latent), strict=True):
        torch.testing.assert_close(one.tensor[..., 0, :], other.tensor.unflatten(3, latent)[..., 3, 7, :], atol=1e-6, rtol=0)


def test_the_gradient_of_attend_and_excite_flows_through_captured_maps() -> None:
    """With respect to the latents, as through diffusers' own unfused attention."""
    live = Live("conditioned")
    reference = Reference(live.unet)
    sample = live.inputs["sample"].requires_grad_()
    reference.unet(**live.inputs)
    found = [torch.unflatten(each[0], 0, (2, -1))[1].mean(0) for each in reference.maps.values()]
    loss = attend_and_excite([each for each in found if each.shape == (256, 77)], token=2)
    (expected,) = torch.autograd.grad(loss, sample)
    with capture(live.unet, maps(kind="cross", tokens_at="16x16", steps=None, grad=True), rows=slice(1, 2)) as seen:
        live.unet(**live.inputs)
        (gradient,) = torch.autograd.grad(attend_and_excite([one.tensor[0, 0] for one in seen.maps], token=2), sample)

    largest = float(expected.abs().max())
    assert largest > 1e-5
    torch.testing.assert_close(gradient, expected, atol=1e-4 * largest, rtol=0)
