"""Differences in words: numbers with their sign, folded names of layers, what changed in a stage, a skip, an attention layer."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from unetinspect.compare.align import alike
from unetinspect.record import Shape
from unetinspect.record.diff import AttentionDiff, LayerDiff, NameCounts, Quantity, SkipDiff, StageDiff
from unetinspect.units import format_shape, plural
from unetinspect.views.words import channel_sum

# A cell has at most this many folded names, then the number of the others.
_MOST_NAMES = 6
# Overridden values are cut to this length in the head; the config section shows them whole.
_LONGEST_VALUE = 30
# From here on a multiple is easier to read than a percentage.
_MANY_TIMES = 10
_RANGE = re.compile(r"\d+(?:-\d+)?")
_SKIP_SUM = ("hidden_channels", "skip_channels", "concat_channels", "out_channels")


def signed(number: int | None, show: Callable[[int], str]) -> str:
    """Write a difference with its sign; none as "".

    >>> from unetinspect.units import format_count
    >>> signed(-536_136_000, format_count), signed(0, format_count)
    ('-536.1 M', '')
    """
    return "" if not number else f"{'+' if number > 0 else '-'}{show(abs(number))}"


def difference(quantity: Quantity, show: Callable[[int], str]) -> str:
    """Write a difference, also relative to A: "-536.1 M, -62.4 %"; beyond ten times, as a multiple."""
    if not quantity.difference:
        return ""
    text = signed(quantity.difference, show)
    if quantity.ratio is None:
        return text
    if quantity.ratio > _MANY_TIMES:
        return f"{text}, {quantity.ratio:.3g} times"
    percent = f"{100 * (quantity.ratio - 1):+.1f} %"
    return text if percent[1:] == "0.0 %" else f"{text}, {percent}"


def config_value(value: Any, origin: str) -> str:
    """Write a config's value as JSON, and whether diffusers filled it in; "-" where the class has no such key."""
    if origin == "absent":
        return "-"
    return f"{json.dumps(value)} (default)" if origin == "default" else json.dumps(value)


def overrides_text(overrides: Mapping[str, Any]) -> str:
    """Write the overridden keys of a config, to follow a model's name; "" if there are none.

    >>> overrides_text({"mid_block_type": None, "layers_per_block": 1})
    ' with mid_block_type=null, layers_per_block=1'
    """
    values = {key: json.dumps(value) for key, value in overrides.items()}
    texts = [f"{key}={text if len(text) <= _LONGEST_VALUE else f'{text[: _LONGEST_VALUE - 3]}...'}" for key, text in values.items()]
    return f" with {_some(texts)}" if texts else ""


def folded(paths: Iterable[str]) -> list[str]:
    """Write paths that differ in a number as one.

    >>> folded(["attentions.0.norm", "attentions.1.norm", "attentions.2.norm", "proj"])
    ['attentions.0-2.norm', 'proj']
    >>> folded(["attn2.to_k", "attn2.to_v", "norm"])
    ['attn2.{to_k, to_v}', 'norm']
    """
    names = [tuple(path.split(".")) for path in dict.fromkeys(paths)]
    for place in range(max(map(len, names), default=0) - 1, -1, -1):
        names = _folded_at(names, place)
    beside: dict[str, list[str]] = {}
    for *parents, last in names:
        beside.setdefault(".".join(parents), []).append(last)
    texts: list[str] = []
    for parent, children in beside.items():
        inside = children[0] if len(children) == 1 else f"{{{', '.join(children)}}}"
        texts += [f"{parent}.{inside}"] if parent else children
    return texts


def _folded_at(names: Sequence[tuple[str, ...]], place: int) -> list[tuple[str, ...]]:
    groups: dict[tuple[str | None, ...], list[str]] = {}
    for name in names:
        number = name[place] if place < len(name) and _RANGE.fullmatch(name[place]) else None
        groups.setdefault(name if number is None else (*name[:place], None, *name[place + 1 :]), []).append(number or "")
    return [tuple(_ranges(numbers) if part is None else part for part in name) for name, numbers in groups.items()]


def _ranges(numbers: Sequence[str]) -> str:
    spans: list[list[int]] = []
    for first, last in sorted((int(text.partition("-")[0]), int(text.rpartition("-")[2])) for text in numbers):
        if spans and spans[-1][1] == first - 1:
            spans[-1][1] = last
        else:
            spans.append([first, last])
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in spans)


def stage_text(diff: StageDiff, sizes: tuple[Shape, Shape]) -> str:
    """Write the change of a stage; of its shapes, only those that do not follow from the `sizes` of the two samples."""
    return "; ".join(_stage_parts(diff, sizes)) or "renamed, otherwise identical"


def _stage_parts(diff: StageDiff, sizes: tuple[Shape, Shape]) -> Iterator[str]:
    a, b = diff.a, diff.b
    if a is None or b is None:
        for only in filter(None, (a, b)):
            counts = {"resnet": only.resnets, "transformer block": only.transformer_blocks}
            yield ", ".join([f"{diff.change}: {only.class_name}", *(plural(count, noun) for noun, count in counts.items() if count)])
        return
    if "class_name" in diff.differs:
        yield f"{a.class_name} -> {b.class_name}"
    yield from layer_texts(diff.layers, a.name, b.name)
    for word, mine, other in (("in", a.in_shape, b.in_shape), ("out", a.out_shape, b.out_shape)):
        if not alike(mine, other, *sizes):
            yield f"{word} {format_shape(mine)} -> {format_shape(other)}"
    if {*diff.differs} - {"name"} == {"macs"}:
        yield "other MACs"


def layer_texts(layers: Sequence[LayerDiff], stage_a: str, stage_b: str) -> Iterator[str]:
    """Say which layers of a stage were removed, added, moved and changed; paths that differ in a number are folded."""
    removed = [_inside(layer.a.path, stage_a) for layer in layers if layer.a and layer.b is None]
    added = [_inside(layer.b.path, stage_b) for layer in layers if layer.b and layer.a is None]
    yield from (f"{word} {_some(folded(paths))}" for word, paths in (("removed", removed), ("added", added)) if paths)
    both = [(layer, _inside(layer.a.path, stage_a), _inside(layer.b.path, stage_b)) for layer in layers if layer.a and layer.b]
    moved = [f"{path} -> {other}" for layer, path, other in both if path.rpartition(".")[2] != other.rpartition(".")[2]]
    if moved:
        yield f"moved {_some(moved)}"
    yield from _changed_layers([(layer, path) for layer, path, _ in both if layer.differs])


def _changed_layers(layers: Sequence[tuple[LayerDiff, str]]) -> Iterator[str]:
    """Group the changed layers by how they changed: another class, other weights, other settings."""
    groups: dict[str, list[str]] = {}
    for layer, path in layers:
        classes = f"{layer.a.class_name} -> {layer.b.class_name}" if layer.a and layer.b and "class_name" in layer.differs else ""
        how = f"{classes}:" if classes else "other weights:" if "tensors" in layer.differs else "other settings:"
        groups.setdefault(how, []).append(path)
    yield from (f"{how} {_outer(paths)}".removesuffix(": ") for how, paths in groups.items())


def _outer(paths: Sequence[str]) -> str:
    """Name layers; of many, the layers of the stage that contain them. A stage without layers of its own is not named."""
    names = folded(paths)
    if len(names) <= _MOST_NAMES // 2:
        return ", ".join(names)
    return _some(folded(".".join(parts[: 2 if parts[1:2] and parts[1].isdigit() else 1]) for parts in (path.split(".") for path in paths)))


def _some(names: Sequence[str]) -> str:
    more = len(names) - _MOST_NAMES
    return ", ".join(names) if more <= 1 else f"{', '.join(names[:_MOST_NAMES])} and {more} more"


def _inside(path: str, stage: str) -> str:
    return path[len(stage) + 1 :]


def skip_text(diff: SkipDiff, sizes: tuple[Shape, Shape]) -> str:
    """Write the change of a skip; its shape only where it does not follow from the `sizes` of the two samples."""
    return "; ".join(_skip_parts(diff, sizes)) or "renamed, otherwise identical"


def _skip_parts(diff: SkipDiff, sizes: tuple[Shape, Shape]) -> Iterator[str]:
    a, b = diff.a, diff.b
    if a is None or b is None:
        yield from (f"{diff.change}: {channel_sum(only)}" for only in (a, b) if only)
        return
    if "source" in diff.differs:
        yield f"from {a.source} -> {b.source}" if a.source != b.source else f"from {a.source}, at a different place in B"
    if set(_SKIP_SUM) & set(diff.differs):
        yield f"A: {channel_sum(a)}, B: {channel_sum(b)}"
    elif "shape" in diff.differs and not alike(a.shape, b.shape, *sizes):
        yield f"{format_shape(a.shape)} -> {format_shape(b.shape)}"
    if "combine" in diff.differs:
        yield f"{a.combine} -> {b.combine}"
    if "changes" in diff.differs:
        yield f"changes {', '.join(a.changes) or 'none'} -> {', '.join(b.changes) or 'none'}"


def attention_text(diff: AttentionDiff, *, resized: bool) -> str:
    """Write the change of an attention layer; layers that changed in the same way have the same text.

    If the two samples differ in size, so do the maps: they are left out, and a layer that is otherwise identical is "".
    """
    return "; ".join(_attention_parts(diff, resized))


def _attention_parts(diff: AttentionDiff, resized: bool) -> Iterator[str]:
    a, b = diff.a, diff.b
    if a is None or b is None:
        yield diff.change
        return
    for name in ("kind", "processor", "heads", "head_dim"):
        if name in diff.differs:
            yield f"{name} {getattr(a, name)} -> {getattr(b, name)}"
    tokens = {"query_tokens", "key_tokens"} & set(diff.differs)
    if resized and "key_tokens" in tokens and "self" not in (a.kind, b.kind):
        yield f"key tokens {a.key_tokens} -> {b.key_tokens}"
    if resized:
        return
    if tokens:
        yield f"tokens {a.query_tokens}x{a.key_tokens} -> {b.query_tokens}x{b.key_tokens}"
    elif "map_shape" in diff.differs and "heads" not in diff.differs:
        yield f"map {format_shape(a.map_shape)} -> {format_shape(b.map_shape)}"
    if set(diff.differs) <= {"path", "macs"}:
        yield "other MACs"


def weights_text(counts: NameCounts) -> str:
    """Say whether a checkpoint of A loads into B, tensor by tensor, as it is loaded: by name."""
    if not (counts.changed or counts.added or counts.removed):
        return f"weights: all {plural(counts.same, 'tensor')} of A fit B, and vice versa"
    total = counts.same + counts.changed + counts.removed
    wrong = ((counts.changed, "with a different shape"), (counts.removed, "not in B"))
    parts = [f"{count} {what}" for count, what in wrong if count]
    fit = f"{counts.same} of A's {plural(total, 'tensor')} fit B by name and shape"
    return f"weights: {', '.join((fit, *parts))}{f'; {counts.added} of B not in A' if counts.added else ''}"


def ports_text(kind: str, counts: NameCounts) -> str:
    """Count the ports of a kind that the two share, and that they do not."""
    words = {"the same": counts.same, "with a different shape": counts.changed, "only in A": counts.removed, "only in B": counts.added}
    return f"{kind} ports: " + ", ".join(f"{count} {word}" for word, count in words.items() if count)
