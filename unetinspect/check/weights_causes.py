"""Which config keys make a checkpoint's tensors differ from a UNet's, found by trying. Knows neither torch nor diffusers.

A key explains a tensor when the UNet that is built with the checkpoint's value of that key has that tensor as the checkpoint does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from unetinspect.check.weights_findings import Change
from unetinspect.check.weights_tensors import Difference, FileTensors

_BLOCKS = (
    *("block_out_channels", "down_block_types", "up_block_types", "mid_block_type", "layers_per_block"),
    *("transformer_layers_per_block", "attention_head_dim", "num_attention_heads", "only_cross_attention"),
)
# Keys that are of no use, or cannot be built, one without the others; in the first two families the first key asks for the rest.
_FAMILIES = (
    ("addition_embed_type", "addition_time_embed_dim", "addition_embed_type_num_heads", "projection_class_embeddings_input_dim"),
    ("class_embed_type", "projection_class_embeddings_input_dim", "class_embeddings_concat"),
    ("encoder_hid_dim_type", "encoder_hid_dim", "cross_attention_dim"),
    _BLOCKS,
)
# Heads change no tensor, but their list has to be as long as the blocks'.
_ONLY_WITH_OTHERS = ("attention_head_dim", "num_attention_heads")
# No tensor's name or shape depends on these.
_UNSEEN = frozenset(
    (
        *("sample_size", "center_input_sample", "flip_sin_to_cos", "freq_shift", "downsample_padding", "mid_block_scale_factor"),
        *("dropout", "act_fn", "norm_eps", "upcast_attention", "resnet_skip_time_act", "resnet_out_scale_factor", "timestep_post_act"),
    )
)

Attempt = Callable[[Mapping[str, Any]], tuple[Difference, ...] | None]


class Cause(NamedTuple):
    """Config keys that differ, and the tensors that differ for it."""

    changes: dict[str, Change]
    differences: tuple[Difference, ...]


def find_causes(
    differences: tuple[Difference, ...], config: Mapping[str, Any], told: Mapping[str, Any], attempt: Attempt
) -> tuple[list[Cause], tuple[Difference, ...]]:
    """Return the causes among the keys that the checkpoint tells, and the differences that none of them explains.

    Keys are tried alone first, then with those that they belong to, at last all together; each that helps stays.
    `attempt` builds the UNet of a config and returns how the file differs from it; None: it cannot be built.
    """
    pending = {key: value for key, value in told.items() if _differs(key, value, config)}
    applied, left, now, causes = dict(config), differences, len(differences), list[Cause]()
    progress = True
    while pending and left and progress:
        progress = False
        for group in list(_groups(pending, applied)):
            values = {key: pending[key] for key in group if key in pending}
            trial = {**_without_old_levels(applied, values), **values}
            still = attempt(trial) if values and left else None
            if still is None or len(still) >= now:
                continue
            solved, left = split_solved(left, still)
            if solved:
                causes.append(Cause({key: Change(value, config.get(key)) for key, value in values.items()}, solved))
            applied, now, progress = trial, len(still), True
            pending = {key: value for key, value in pending.items() if key not in values}
            if len(values) > 1:
                break  # keys that stood in each other's way may now stand alone
    return causes, left


def split_solved(
    differences: tuple[Difference, ...], still: tuple[Difference, ...]
) -> tuple[tuple[Difference, ...], tuple[Difference, ...]]:
    """Return the differences that are no longer there, and those that still are."""
    known = {difference.identity for difference in still}
    solved = tuple(difference for difference in differences if difference.identity not in known)
    return solved, tuple(difference for difference in differences if difference.identity in known)


def read_keys(found: FileTensors, config: Mapping[str, Any]) -> dict[str, Any]:
    """Read the config keys that one tensor tells by itself, for a UNet of any class that has such keys."""
    shapes = {name: tensor.shape for name, tensor in found.named.items()}
    widths = {shape[1] for name, shape in shapes.items() if name.endswith(".attn2.to_k.weight") and len(shape) == 2}
    keys = {
        "in_channels": _side(shapes, "conv_in.weight", 1),
        "out_channels": _side(shapes, "conv_out.weight", 0),
        "time_cond_proj_dim": _side(shapes, "time_embedding.cond_proj.weight", 1),
        "num_class_embeds": _side(shapes, "class_embedding.weight", 0),
        "cross_attention_dim": widths.pop() if len(widths) == 1 else None,
    }
    return {key: value for key, value in keys.items() if value is not None and key in config}


def _side(shapes: Mapping[str, tuple[int, ...]], name: str, axis: int) -> int | None:
    shape = shapes.get(name, ())
    return shape[axis] if len(shape) > axis else None


def _differs(key: str, value: Any, config: Mapping[str, Any]) -> bool:
    return not key.startswith("_") and key not in _UNSEEN and key in config and _plain(value) != _plain(config[key])


def _plain(value: Any) -> Any:
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value


def _groups(pending: Mapping[str, Any], config: Mapping[str, Any]) -> Iterator[tuple[str, ...]]:
    """Yield the keys to try together: those that can stand alone, then the families, then all."""
    levels = _levels(pending) not in (None, _levels(config))
    together = {*_ONLY_WITH_OTHERS, *(_BLOCKS if levels else ())}
    together |= {key for asks, *asked in _FAMILIES[:2] if asks in pending for key in asked}
    yield from ((key,) for key in pending if key not in together)
    yield from (group for family in _FAMILIES if len(group := tuple(key for key in family if key in pending)) > 1)
    yield tuple(pending)


def _levels(config: Mapping[str, Any]) -> int | None:
    widths = config.get("block_out_channels")
    return len(widths) if isinstance(widths, list | tuple) else None


def _without_old_levels(config: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """Leave out what has a value for each block, where there are now more or fewer of them: the class's own default stands in."""
    old = _levels(config)
    if _levels(values) in (None, old):
        return dict(config)
    return {key: value for key, value in config.items() if not (isinstance(value, list | tuple) and len(value) == old)}
