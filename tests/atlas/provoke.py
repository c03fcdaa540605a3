"""Errors that diffusers and torch raise: models that run, one mistake at a time, and what is raised."""

from __future__ import annotations

import linecache
import os
import re
import signal
import sys
import traceback
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from itertools import product
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, NamedTuple

import diffusers
import torch
from diffusers.models.modeling_utils import no_init_weights
from msgspec.structs import replace
from torch import Tensor, nn

from tests.atlas.added import frame_mutations, image_adapter, ip_adapter_mutations, made_of_others, residual_mutations, with_residuals
from tests.atlas.bases import Base, bases
from tests.atlas.mutations import Inputs, Mutation, about_of, axis_name, config_mutations, mutations, right_inputs, run
from tests.atlas.naming import Names, config_names, levels, told, with_areas
from tests.tiny import Config
from unetinspect.explain.atlas import Row
from unetinspect.run.build import quiet_diffusers
from unetinspect.run.resolve import diffusers_class

_MOST_FRAMES = 6
_SECONDS = 2.0  # of processor time
_DIFFUSERS = str(Path(diffusers.__file__).parent)
_WRAPPERS = re.compile(r"(peft_utils|accelerate_utils|configuration_utils|deprecation_utils|fp16)\.|\.wrapper$|\.inner_init$")
_SIDES = ("height", "width", "length")
# The errors that tests provoke again: every 24th mistake of every 4th base; all of them if ALL_KINDS is in the environment.
ONE_IN, ONE_BASE_IN = (1, 1) if "ALL_KINDS" in os.environ else (24, 4)
_NOTHING = Mutation("", "", "", run)


class Provoked(NamedTuple):
    """An error that was provoked: its row, and what a user would paste."""

    row: Row
    message: str
    traceback: str
    base: str


class _EndlessError(BaseException):
    """A run that does not end."""


def provoke(*, primes: bool = True, one_in: int = 1, one_base_in: int = 1) -> Iterator[Provoked]:
    """Provoke errors, every mistake of every base or one in so many: with sizes that are primes, or with those of `kinds.yaml`.

    A base that is left out counts as bent, so that those after it have no mistakes that they would not have without it.
    """
    torch.set_num_threads(1)
    signal.signal(signal.SIGVTALRM, _stop)
    seen: set[str] = set()
    bent: dict[str, Config] = {}
    with quiet_diffusers(), warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        for place, base in enumerate(bases(primes=primes)):
            first = bent.setdefault(base.class_name, base.config)
            for variant, model, more in () if place % one_base_in else _variants(base, first):
                yield from _provoked(variant, model, seen, more, one_in)
            seen |= _inputs_of(base)
            if base.name == "conditioned":
                model = build(base.class_name, base.config)
                for class_name, mutation in list(made_of_others(build, base))[::one_in]:
                    if (raised := _raised(mutation, model, {})) is not None:
                        yield _recorded(raised, base._replace(class_name=class_name), mutation, _names(base))


_More = Callable[[set[int]], Iterator[Mutation]]


def _variants(base: Base, first: Config) -> Iterator[tuple[Base, Any, _More]]:
    """Yield a base alone and with what can be added to it, each with its model and the mistakes that it has beyond its inputs.

    `first` is the config of the first base of the class: the keys that are as there were bent there.
    """
    model = build(base.class_name, base.config)
    keys = [key for key, value in base.config.items() if first is base.config or value != first[key]]
    yield base, model, lambda used: config_mutations(base, keys, used, build)
    for added in with_residuals(base, model):
        yield added, model, partial(residual_mutations, added)
    adapted = image_adapter(base, model)
    if adapted is not None:
        model._load_ip_adapter_weights([adapted[1]])
        yield adapted[0], model, lambda used: ip_adapter_mutations(*adapted, used, build)


def _provoked(base: Base, model: Any, seen: set[str], more: _More, one_in: int) -> Iterator[Provoked]:
    """Provoke what a base's inputs can, and `more`, which is given the numbers that mean something."""
    run(model, right_inputs(base))  # without a mistake it runs
    names = _names(base)
    used = {1, *_lengths_of(_NOTHING, names.near, base.halvings).values(), *names.far.values()}
    processors = len(getattr(model, "attn_processors", ()))
    all_of = [*mutations(base, used, seen, processors), *frame_mutations(base), *more(used)]
    seen |= _inputs_of(base)
    for mutation in all_of[::one_in]:
        if (raised := _raised(mutation, model, right_inputs(base))) is not None:
            yield _recorded(raised, base, mutation, names)


def _inputs_of(base: Base) -> set[str]:
    return {f"{base.class_name} {spec.name}" for spec in base.specs}


def _stop(number: int, frame: FrameType | None) -> None:
    raise _EndlessError


def build(class_name: str, config: Config) -> Any:
    """Build a model whose weights are all zero."""
    with no_init_weights():
        model = diffusers_class(class_name)(**config).eval()
    for tensor in (*model.parameters(), *model.buffers()):
        tensor.data.zero_()
    return model


def _raised(mutation: Mutation, model: Any, inputs: Inputs) -> Exception | None:
    signal.setitimer(signal.ITIMER_VIRTUAL, _SECONDS)
    try:
        mutation.call(model, inputs)
    except Exception as error:
        return error
    except _EndlessError:
        print(f"no end: {type(model).__name__}, {mutation.cause} {mutation.about} {mutation.axis}", file=sys.stderr)
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
    return None


def _names(base: Base) -> Names:
    """Name the lengths of the inputs, each axis by the first input that has it, and the numbers of the config."""
    near: dict[str, int] = {}
    for spec in base.specs:
        if "residual" in spec.name:
            continue  # they are as large as the sample, and have the channels of the blocks
        for axis, length in zip(spec.axes, spec.shape or (), strict=False):
            name, size = axis_name(axis), length
            if (
                size > 1
                and name != "batch*frames"
                and (name, size) not in {(known.rpartition(".")[2], value) for known, value in near.items()}
            ):
                near.setdefault(f"{about_of(spec.name)}.{name}", size)
    return Names(near, config_names(base.config))


def _lengths_of(mutation: Mutation, near: Mapping[str, int], halvings: int) -> dict[str, int]:
    """Return the lengths of the inputs, what a mistake changes in them, and the sides and areas of each level."""
    is_side = mutation.axis in _SIDES
    named = dict(mutation.lengths)
    for name, length in [*near.items(), *mutation.lengths.items()]:
        if name != mutation.instead:
            sided = name.rpartition(".")[2] in _SIDES or (is_side and name in mutation.lengths)
            named |= levels(name, length, halvings) if sided else {name: length}
    whole = mutation.instead.rpartition(".")[0]
    for name in near:
        place, _, side = name.rpartition(".")
        if side == "height":
            wrong = mutation.axis if place == whole else ""
            heights = ["given", "expected"] if wrong == "height" else [name]
            widths = ["given", "expected"] if wrong == "width" else [f"{place}.width"]
            for height, width in product(heights, widths):
                named |= with_areas(named, height, width)
    given, expected = (mutation.lengths.get(name, 0) for name in ("given", "expected"))
    if mutation.axis == "batch" and given and expected:
        # Heads and frames are parted by the batch of another input: what is left goes to the axis beside it.
        for name, length in [(name, length) for name, length in named.items() if "*" in name]:
            if length * given % expected == 0:
                named[f"{name}*given/expected"] = length * given // expected
            if length * expected % given == 0:
                named[f"{name}*expected/given"] = length * expected // given
    return named


def _recorded(error: Exception, base: Base, mutation: Mutation, names: Names) -> Provoked:
    frames, code, module, root = _place(error.__traceback__)
    near = _lengths_of(mutation, names.near, base.halvings)
    width = base.config.get("addition_time_embed_dim")
    if width is not None:  # each id is embedded in so many channels
        ids = [name for name in near if name.endswith(".ids") or (mutation.axis == "ids" and name in mutation.lengths)]
        near |= {f"{name}*addition_time_embed_dim": width * near[name] for name in ids}
    weight = getattr(module, "weight", None)
    weights = {f"weight.{place}": length for place, length in enumerate(weight.shape[:2])} if isinstance(weight, Tensor) else {}
    far = {name: value for name, value in names.far.items() if name != mutation.instead}
    text, numbers = told(_message(error), Names(near | weights, far), [mutation.word] if mutation.word else [])
    row = Row(
        text=text,
        numbers=numbers,
        frames=frames,
        code=code,
        module=_path(module, root),
        cause=mutation.cause,
        about=mutation.about,
        axis=mutation.axis,
        classes=(base.class_name,),
        own=_is_own(error.__traceback__),
    )
    return Provoked(row, _message(error), _pasted(error), base.name)


def _is_own(trace: TracebackType | None) -> bool:
    """Whether diffusers itself says it, and not torch or Python below it."""
    innermost = traceback.extract_tb(trace)[-1]
    return innermost.filename.startswith(_DIFFUSERS) and (innermost.line or "").startswith(("raise ", "assert "))


def _message(error: Exception) -> str:
    """Return a message; with its type where it says nothing without it, as a KeyError."""
    text = str(error)
    return f"{type(error).__name__}: {text}" if isinstance(error, KeyError) else text or type(error).__name__


def _place(trace: TracebackType | None) -> tuple[tuple[str, ...], str, nn.Module | None, nn.Module | None]:
    """Return diffusers' frames, the innermost one's line of code, the innermost module whose forward was running, and the outermost."""
    frames: list[str] = []
    line = ""
    modules: list[nn.Module] = []
    for frame, number in traceback.walk_tb(trace):
        code = frame.f_code
        place = f"{Path(code.co_filename).stem}.{code.co_name}"
        if code.co_filename.startswith(_DIFFUSERS) and not _WRAPPERS.search(place):
            frames.append(place)
            line = linecache.getline(code.co_filename, number).strip()
        elif code.co_name == "_call_impl" and isinstance(frame.f_locals.get("self"), nn.Module):
            modules.append(frame.f_locals["self"])
    # The model's own file is what its class says, and blocks are shared by many classes.
    frames[:1] = [re.sub(r"^\w+\.(__init__|forward)$", r"*.\1", frame) for frame in frames[:1]]
    return tuple(frames[-_MOST_FRAMES:]), line, *((modules[-1], modules[0]) if modules else (None, None))


def _path(module: nn.Module | None, root: nn.Module | None) -> str:
    if module is None or root is None:
        return ""
    path = next((name for name, part in root.named_modules() if part is module), "")
    return re.sub(r"(?<![^.])\d+(?![^.])", "*", path)


def _pasted(error: Exception) -> str:
    """Return the traceback as it stands where the model is called from a script."""
    whole = traceback.TracebackException.from_exception(error)
    kept = [frame for frame in whole.stack if "/tests/atlas/" not in frame.filename]
    for frame in kept:
        frame.filename = re.sub(r".*/(site-packages/|lib/python3)", r"/x/\1", frame.filename)
    script = traceback.FrameSummary("/x/infer.py", 21, "<module>", lookup_line=False, line="main()")
    stack = traceback.StackSummary.from_list([script, *kept])
    return "".join(["Traceback (most recent call last):\n", *stack.format(), *whole.format_exception_only()])


def merged(rows: Iterable[Row]) -> list[Row]:
    """Merge rows that differ in their classes alone."""
    found: dict[Row, set[str]] = {}
    for row in rows:
        if not re.fullmatch(r"\w*Error", row.text):  # an assertion without words: any program raises it
            found.setdefault(replace(row, classes=()), set()).update(row.classes)
    return [replace(row, classes=tuple(sorted(classes))) for row, classes in found.items()]


def without_provoked(raised: Iterable[Row], provoked: Iterable[Row]) -> list[Row]:
    """Return the texts of the source that were not provoked: none has the same text and was raised by the same function."""
    known: dict[str, list[str]] = {}
    for row in provoked:
        known.setdefault(_function(row), []).append(row.text)

    def is_known(row: Row) -> bool:
        pattern = re.compile(".+?".join(map(re.escape, re.split("[@#]", row.text))))
        return any(map(pattern.fullmatch, known.get(_function(row), ())))

    return [row for row in raised if not is_known(row)]


def _function(row: Row) -> str:
    return row.frames[-1].rpartition(".")[2] if row.frames else ""
