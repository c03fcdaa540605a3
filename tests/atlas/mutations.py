"""One mistake at a time: in an input, in a config key, in what is added to a model."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from itertools import combinations
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from tests.atlas.bases import TABLES, Base
from tests.tiny import Config
from unetinspect.record import InputInfo
from unetinspect.unets.builder import is_list, nest

Inputs = dict[str, Any]


class Mutation(NamedTuple):
    """A mistake.

    Attributes:
        cause: Its sort, as `atlas.jsonl` calls it.
        about: The input or config key that it is in.
        axis: Where in it, or which mistake of this sort.
        call: Makes the mistake, with a model and its right inputs.
        lengths: "given" and "expected", where a length is wrong.
        instead: The name of the length that "expected" replaces.
        word: The wrong value, where it is a word.
    """

    cause: str
    about: str
    axis: str
    call: Callable[[Any, Inputs], object]
    lengths: Mapping[str, int] = {}
    instead: str = ""
    word: str = ""


def right_inputs(base: Base) -> Inputs:
    """Make the inputs with which a model runs, by their dotted names."""
    made: Inputs = {}
    for spec in base.specs:
        dtype = torch.int64 if spec.dtype == "int64" else torch.float32
        made[spec.name] = (
            (list(spec.value) if is_list(spec.value) else spec.value) if spec.shape is None else torch.zeros(spec.shape, dtype=dtype)
        )
    return made


def run(model: Any, inputs: Inputs) -> object:
    """Call a model with inputs of dotted names."""
    return model(**nest(inputs))


def axis_name(axis: str) -> str:
    """Return a short name of an axis that a builder writes: "height" of "8 * height".

    >>> axis_name("8 * height"), axis_name("batch * frames"), axis_name("height / 10.67")
    ('height', 'batch*frames', 'height')
    """
    return "*".join(part for part in axis.partition(" / ")[0].split(" * ") if not part.isdigit()).replace(" ", "")


def mutations(base: Base, used: set[int], seen: set[str], processors: int) -> Iterator[Mutation]:
    """Yield the mistakes that can be made with a base.

    `used` are the numbers that mean something in it, `seen` the inputs of its class that were bent before: where a base has others,
    those that it shares are bent in their batch alone. `processors` counts its attention processors.
    """
    names = {spec.name for spec in base.specs}
    fresh = {name for name in names if f"{base.class_name} {name}" not in seen}
    for spec in base.specs:
        if _is_like_another(spec.name) and base.class_name != "UNet2DConditionModel":
            continue
        whole = not fresh or spec.name in fresh
        if spec.shape is not None:
            yield from (wrong for wrong in _lengths(base, spec, used) if whole or wrong.axis == "batch")
        # Nobody makes residuals by hand: their axes are in the right order.
        if spec.shape is not None and whole and "residual" not in spec.name and not _is_like_another(spec.name):
            yield from _axes(spec)
            yield from _dtypes(spec)
        if whole and "residual" not in spec.name:
            yield from _missing(base, spec)
    if fresh == names:
        yield from _unexpected(base)
    if fresh == names or not fresh:
        yield from _of_the_model(processors)


def _is_like_another(name: str) -> bool:
    """Tell whether an input is a residual after the first of a list."""
    return "residuals." in name and not name.endswith(".0")


def _changed(name: str, change: Callable[..., Any], *arguments: Any) -> Callable[[Any, Inputs], object]:
    """Return the call with one input changed: `change` is given the input and the arguments."""

    def call(model: Any, inputs: Inputs) -> object:
        return run(model, {**inputs, name: change(inputs[name], *arguments)})

    return call


def _without(name: str, **instead: Any) -> Callable[[Any, Inputs], object]:
    """Return the call without an input, or without all of a dotted name's first part, and with others instead."""

    def call(model: Any, inputs: Inputs) -> object:
        kept = {key: value for key, value in inputs.items() if key != name and not key.startswith(f"{name}.")}
        return run(model, {**kept, **instead})

    return call


def about_of(name: str) -> str:
    """Return what a mistake is about: the input without its place in a list.

    >>> about_of("down_block_additional_residuals.3"), about_of("added_cond_kwargs.time_ids")
    ('down_block_additional_residuals', 'added_cond_kwargs.time_ids')
    """
    return ".".join(part for part in name.split(".") if not part.isdigit())


def _cause(name: str, otherwise: str) -> str:
    return "residual" if "residual" in name else "mask" if "attention_mask" in name else otherwise


def _lengths(base: Base, spec: InputInfo, used: set[int]) -> Iterator[Mutation]:
    assert spec.shape is not None
    for place, (axis, length) in enumerate(zip(spec.axes, spec.shape, strict=True)):
        name = axis_name(axis)
        is_side = name in ("height", "width", "length")
        step = 2**base.halvings if is_side else 1
        others = {nearest(length // step, used, up=True) * step, nearest(length // step, used, up=False) * step}
        if is_side:
            others |= {nearest(length, used, up=True), 1}
        elif name in ("batch", "tokens", "batch*frames"):
            # Guidance doubles a batch; the frames are forgotten; one embedding for all images.
            others |= {1, 2 * length, batch_of(base)}
        for other in sorted(others - {length, 0}):
            call = _changed(spec.name, resized, place, other)
            cause = _cause(spec.name, "indivisible" if is_side and other % step else "size")
            yield Mutation(cause, about_of(spec.name), name, call, {"given": other, "expected": length}, f"{about_of(spec.name)}.{name}")


def batch_of(base: Base) -> int:
    """Return the batch of the sample, the first input of all classes."""
    shape = base.specs[0].shape
    assert shape is not None
    return shape[0]


def resized(tensor: Tensor, place: int, length: int) -> Tensor:
    """Return zeros that are longer or shorter along one axis."""
    return torch.zeros(*tensor.shape[:place], length, *tensor.shape[place + 1 :], dtype=tensor.dtype)


def nearest(length: int, used: set[int], *, up: bool) -> int:
    """Return the nearest prime above or below a length that means nothing yet; 0 if there is none."""
    step, other = (1 if up else -1), length
    while True:
        other += step
        if other < 2:
            return 0
        if other not in used and all(other % divisor for divisor in range(2, int(other**0.5) + 1)):
            return other


def _axes(spec: InputInfo) -> Iterator[Mutation]:
    """Yield an axis too few, one too many, and orders of axes."""
    about, names = about_of(spec.name), [axis_name(axis) for axis in spec.axes]
    for place, name in enumerate(names):
        yield Mutation("axes", about, name, _changed(spec.name, torch.select, place, 0))
    for place in (0, 1)[: len(names) + 1]:
        yield Mutation("axes", about, "extra", _changed(spec.name, torch.unsqueeze, place))
    channels = next((place for place, name in enumerate(names) if "channels" in name), None)
    if channels is not None and len(names) > 2:
        yield Mutation("order", about, "channels last", _changed(spec.name, torch.movedim, channels, -1))
    for one, other in combinations(range(len(names)), 2):
        likely = one > 0 or other == 1 or names[other] in ("frames", "tokens")
        if likely and spec.shape is not None and spec.shape[one] != spec.shape[other]:
            yield Mutation("order", about, f"{names[one]}<->{names[other]}", _changed(spec.name, torch.transpose, one, other))


def _dtypes(spec: InputInfo) -> Iterator[Mutation]:
    about = about_of(spec.name)
    for dtype in (torch.float16, torch.float64) if spec.dtype == "float" else (torch.float32,):
        yield Mutation("dtype", about, str(dtype).removeprefix("torch."), _changed(spec.name, Tensor.to, dtype))
    if spec.dtype == "int64":
        for value, axis in ((10**6, "too large"), (-(10**6), "negative")):
            yield Mutation("values", about, axis, _changed(spec.name, torch.add, value))
    if spec.name in ("sample", "encoder_hidden_states") or "embeds" in spec.name:
        yield Mutation("dtype", about, "list", _changed(spec.name, Tensor.tolist))


def _missing(base: Base, spec: InputInfo) -> Iterator[Mutation]:
    about = about_of(spec.name)
    yield Mutation("missing", about, "None", _without(spec.name, **{spec.name: None}))
    yield Mutation("missing", about, "left out", _without(spec.name))
    argument = spec.name.partition(".")[0]
    if argument != spec.name and next(other for other in base.specs if other.name.startswith(f"{argument}.")) == spec:
        yield Mutation("missing", argument, "None", _without(argument, **{argument: None}))
        yield Mutation("missing", argument, "empty", _without(argument, **{argument: {}}))
        yield Mutation("missing", argument, "left out", _without(argument))


def _unexpected(base: Base) -> Iterator[Mutation]:
    # The name is a word that varies: a row for all other arguments.
    yield Mutation("unexpected", "", "", partial(_refused, "image_embeds"), word="image_embeds")
    for name in TABLES["arguments"].split():
        if not any(spec.name.startswith(name) for spec in base.specs):
            yield Mutation("unexpected", name, "", partial(_refused, name))


def _refused(name: str, model: Any, inputs: Inputs) -> None:
    """Pass an argument that `forward` does not have; one that it has is no mistake."""
    if name not in inspect.signature(model.forward).parameters:
        run(model, {**inputs, name: None})


def _of_the_model(processors: int) -> Iterator[Mutation]:
    for dtype in (torch.float16, torch.bfloat16, torch.float64):
        yield Mutation("dtype", "model", str(dtype).removeprefix("torch."), partial(_in, dtype))
    for axis, given in (("too few", processors - 1), ("empty", 0)) if processors > 1 else ():
        yield Mutation("processors", "attn_processors", axis, partial(_processed, given), {"given": given, "expected": processors})


def _in(dtype: torch.dtype, model: Any, inputs: Inputs) -> None:
    try:
        run(nn.Module.to(model, dtype), inputs)
    finally:
        nn.Module.to(model, torch.float32)


def _processed(count: int, model: Any, inputs: Inputs) -> None:
    model.set_attn_processor(dict(list(model.attn_processors.items())[:count]))


_WORD = "many"


def wrong_values(key: str, value: Any, used: set[int], blocks: int) -> Iterator[tuple[str, Any]]:
    """Yield wrong values of a config key, each with a name of the mistake."""
    yield "null", None  # also what YAML reads where nothing is written
    for word in TABLES["words"].get(key, ()):
        if word != value:
            yield "other", word
    if is_list(value):
        yield "not a list", value[0] if value else 1
        yield "length", [*value[:-1]]
        yield "length", [*value, *value[-1:]]
        inside = wrong_values(key, value[0] if value else None, used, blocks)
        yield from ((name, [item, *value[1:]]) for name, item in inside if name not in ("zero", "length", "null"))
    elif isinstance(value, int) and not isinstance(value, bool):
        yield "number", nearest(value, used, up=True)
        yield "type", str(value)
        yield "zero", 0
        yield "length", [value] * blocks
    elif isinstance(value, float):
        yield "type", f"{value:g}"
    elif isinstance(value, str):
        yield "word", value[:-2] + value[-1:] if len(value) > 3 else value + value
        yield "type", [value]
    elif value is None:
        yield "number", nearest(50, used, up=True)
        yield "word", _WORD


def config_mutations(base: Base, keys: list[str], used: set[int], build: Callable[[str, Config], Any]) -> Iterator[Mutation]:
    """Yield the mistakes in config keys: the model is built with the wrong value, and run if it can be built."""
    channels = base.config.get("block_out_channels", base.config.get("channels"))
    blocks = len(channels) + 1 if is_list(channels) else 3
    for key in keys:
        value = base.config[key]
        for name, wrong in wrong_values(key, value, used, blocks):
            if wrong == value and type(wrong) is type(value):
                continue
            config = {**base.config, key: wrong}
            lengths = _wrong_number(value, wrong)
            call = lambda model, inputs, config=config: run(build(base.class_name, config), inputs)  # noqa: E731
            yield Mutation(
                "config", key, name, call, lengths, instead=key if lengths else "", word=_wrong_word(wrong) if name == "word" else ""
            )


def _wrong_number(value: Any, wrong: Any) -> dict[str, int]:
    while is_list(wrong) and wrong:
        value, wrong = (value[0] if is_list(value) and value else value), wrong[0]
    lengths = {"given": wrong, "expected": value}
    return {name: length for name, length in lengths.items() if type(length) is int} if type(wrong) is int and wrong != value else {}


def _wrong_word(wrong: Any) -> str:
    while is_list(wrong) and wrong:
        wrong = wrong[0]
    return wrong if isinstance(wrong, str) else ""
