"""Which keys of a config are to blame when diffusers refuses it: found by building and running with other values.

A value is to blame if the UNet runs, or gets further before the next mistake, with another value in its place. `run/suspects.py` says
which keys to try first, and what is wrong with them.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from types import MappingProxyType
from typing import Any, Literal, NamedTuple, get_args

import torch
from torch import nn

from unetinspect.errors import ConfigError, Problem, UnetInspectError
from unetinspect.observe.meta_kernels import Operations
from unetinspect.run.build import MAX_MODULES, ModuleCount, construct, first_line, make_inputs, quiet_diffusers
from unetinspect.run.failures import passes_to_try, places_in, reason_of
from unetinspect.run.resolve import SEE_CONFIG, keys_of, plan_pass, resolve_config
from unetinspect.run.suspects import (
    Suspect,
    alternatives,
    doubted_words,
    likely_mistakes,
    misspelt_keys,
    other_classes,
    ranked_keys,
    unknown_keys,
)
from unetinspect.source.loaded import LoadedModel
from unetinspect.unets.request import Request
from unetinspect.units import format_value, joined, plural

# Of this process alone: what else the machine does must not decide which keys are named.
_SECONDS = 10.0
# Once a value gets further, one with which the UNet runs is searched for this long.
_PATIENCE = 2.0
_MOST_MISTAKES = 8
_FIRST_VALUES = 3

Stage = Literal["build", "inputs", "forward"]
_STAGES: tuple[Stage, ...] = get_args(Stage)


class Failure(NamedTuple):
    """How far diffusers came with a config, and why no further.

    Attributes:
        stage: What failed.
        steps: The modules that were made and the operations that ran.
        error: What was raised.
    """

    stage: Stage
    steps: int
    error: BaseException

    def comes_before(self, other: Failure, *, same: bool) -> bool:
        """Tell whether another failure is a later one. `same`: a later one for the same reason counts too, as of another block."""
        if reason_of(self.error) == reason_of(other.error):
            return same and other.steps > self.steps
        return other._place >= self._place

    @property
    def _place(self) -> tuple[int, int, list[int]]:
        """How far diffusers came: the stage, the modules and operations, and the lines of its code that raised, outermost first."""
        return _STAGES.index(self.stage), self.steps, [line for _, line in places_in(self.error)]


class Trial:
    """Builds and runs one model on meta, with some keys of its config changed and the default options of a pass.

    `overrides` are the user's; `force` lifts the size limits.
    """

    def __init__(self, model: LoadedModel, overrides: Mapping[str, Any], *, force: bool = False) -> None:
        self._model = model
        self._overrides = dict(overrides)
        self._force = force
        self._config = resolve_config(model.config, overrides, adapt=False)
        self._give_up = time.process_time() + _SECONDS

    def run(self, change: Mapping[str, Any] = MappingProxyType({})) -> Failure | None:
        """Build and run with some keys changed; returns how that failed, None if it ran."""
        count = ModuleCount(None if self._force else MAX_MODULES)
        try:
            config = resolve_config(self._model.config, {**self._overrides, **change})
            unet = construct(config, count)
        except Exception as error:  # whatever is raised, it is not built
            return Failure("build", count.total, error)
        failures: list[Failure] = []
        try:
            for planned in passes_to_try(config.values, plan_pass(self._model, config.class_name, config.values, Request())):
                inputs = make_inputs(planned.run.inputs, device=torch.device("meta"), dtype=torch.float32)
                failure = _run(unet, inputs, count.total)
                if failure is None:
                    return None
                failures.append(failure)
        except UnetInspectError as error:
            return Failure("inputs", count.total, error)
        return failures[0]

    def explained(self) -> ConfigError | None:
        """Say why the config cannot be built or run, what is wrong with it, and which values run; None: it runs."""
        failure = self.run()
        if failure is None:
            return None
        found = self.find_mistakes(failure)
        class_name, name = self._config.class_name, self._model.name
        problems: list[Problem | str] = [*found]
        named = {key for problem in found for key in problem.keys}
        unknown = [] if "_class_name" in named else unknown_keys(self._config, self._model.config)
        problems += [each.sentence(class_name) for each in unknown if each.key not in named]
        of = class_name if name == class_name else f"{class_name} from {name}"
        raised = first_line(failure.error)
        what = plural(len(problems), "config error") if found else raised
        options = " ".join(problem.options for problem in found if problem.change)
        return ConfigError(
            f"cannot {'build' if failure.stage == 'build' else 'run'} {of}: {what}",
            problems=problems,
            hint=f"{options} makes it run" if options else f"diffusers says: {type(failure.error).__name__}: {raised}; {SEE_CONFIG}",
        )

    def find_mistakes(self, failure: Failure) -> tuple[Problem, ...]:
        """Find the mistakes in the order in which diffusers meets them; with all their changes the UNet runs, or none has a change.

        One key is changed at a time, and what gets further is kept, until the UNet runs or the time is up.
        """
        return self._of_another_class() or self._of_this_class(failure)

    def _of_another_class(self) -> tuple[Problem, ...]:
        """Blame the class if the config, perhaps with other mistakes in it, runs as one of another class."""
        for suspect in other_classes(self._config, self._model.config | self._overrides):
            trial = Trial(self._model, {**self._overrides, **suspect.change}, force=self._force)
            trial._give_up = min(self._give_up, time.process_time() + 2 * _PATIENCE)
            failure = trial.run()
            found = () if failure is None else trial.find_mistakes(failure)
            if failure is None or any(problem.change for problem in found):
                return (self._problem(suspect, runs=True), *found)
        return ()

    def _of_this_class(self, failure: Failure) -> tuple[Problem, ...]:
        mistakes: list[Suspect] = []
        while len(mistakes) < _MOST_MISTAKES:
            found = self._blame(failure, _changes(mistakes))
            if found is None:
                break
            mistake, next_failure = found
            again = next((place for place, other in enumerate(mistakes) if mistake.change.keys() <= other.change.keys()), None)
            if again is None:
                mistakes.append(mistake)
            else:  # the value that got further was not yet the right one
                mistakes[again] = mistakes[again]._replace(change={**mistakes[again].change, **mistake.change})
            if next_failure is None:
                return tuple(self._problem(mistake, runs=True) for mistake in self._without_innocents(mistakes))
            failure = next_failure
        return tuple(self._problem(mistake, runs=False) for mistake in mistakes)

    def _blame(self, failure: Failure, changed: Mapping[str, Any]) -> tuple[Suspect, Failure | None] | None:
        """Return the first change with which the UNet runs, else the first that gets further; None: none does, or the time is up."""
        further: tuple[Suspect, Failure | None] | None = None
        give_up = self._give_up
        for suspect in self._suspects(failure, changed):
            if time.process_time() > give_up:
                break
            outcome = self.run({**changed, **suspect.change})
            if outcome is None:
                return suspect, None
            is_final = suspect.change.keys() <= changed.keys()  # right only if it runs
            if further is None and not is_final and failure.comes_before(outcome, same=suspect.by_block):
                further = suspect, outcome
                give_up = min(give_up, time.process_time() + _PATIENCE)
        return further

    def _suspects(self, failure: Failure, changed: Mapping[str, Any]) -> Iterator[Suspect]:
        """Yield changes to try: those of likely mistakes, the nearest values of each key, and then the farther ones."""
        config = self._config._replace(values={**self._config.values, **changed})
        tried: set[str] = set()

        def new(suspects: Iterable[Suspect]) -> Iterator[Suspect]:
            for suspect in suspects:
                mark = repr(sorted(suspect.change.items()))
                same = any(key in changed or repr(config.values.get(key)) == repr(value) for key, value in suspect.change.items())
                if mark not in tried and not same:
                    yield suspect
                tried.add(mark)

        def other_values(keys: Iterable[str], most: int | None) -> Iterator[Suspect]:
            return (Suspect((key,), "", {key: value}) for key in keys for value in islice(alternatives(config, key), most))

        yield from new(misspelt_keys(config, self._model.config | self._overrides))
        defaults = keys_of(config.class_name)
        before = {key: self._model.config.get(key, defaults[key]) for key in self._overrides if key in defaults}
        for suspect in likely_mistakes(config):
            undone = {key: before[key] for key in suspect.change if key in before}
            yield from new([suspect._replace(change=undone), suspect] if undone else [suspect])
        yield from new(Suspect((key,), "", {key: value}) for key, value in before.items())
        for key in filter(changed.__contains__, config.values):
            near = islice(alternatives(self._config, key), _FIRST_VALUES)
            yield from (Suspect((key,), "", {key: value}) for value in near if repr(value) != repr(changed[key]))
        message = str(failure.error)
        strong, others = ranked_keys(config, self._overrides, message)
        for keys, most in ((strong, None), (others, _FIRST_VALUES), (others, None)):
            yield from new(other_values(keys, most))
            yield from new(doubted_words(config, message))

    def _without_innocents(self, mistakes: list[Suspect]) -> list[Suspect]:
        """Leave out what turns out not to be a mistake once the others are changed."""
        for mistake in mistakes[:-1]:
            rest = [other for other in mistakes if other is not mistake]
            if self.run(_changes(rest)) is None:
                mistakes = rest
        return mistakes

    def _problem(self, mistake: Suspect, *, runs: bool) -> Problem:
        """Say what is wrong and, if the UNet runs, what works instead, unless that is too long: the hint has it."""
        key = mistake.keys[0]
        what = mistake.what or f"{key} is {format_value(self._config.values[key])}"
        written = {name: format_value(value) for name, value in mistake.change.items()}
        if runs and not any(text.endswith("...") for text in written.values()):
            works = joined(text if [key] == [*written] else f"{name} {text}" for name, text in written.items())
            what += f"{'' if what.endswith('?') else ';'} {works} {'work' if len(written) > 1 else 'works'}"
        return Problem(mistake.keys, what, mistake.change if runs else {})


def _changes(mistakes: Iterable[Suspect]) -> dict[str, Any]:
    return {key: value for mistake in mistakes for key, value in mistake.change.items()}


def _run(unet: nn.Module, inputs: Mapping[str, Any], steps: int) -> Failure | None:
    operations = Operations()
    try:
        with quiet_diffusers(), torch.no_grad(), operations:
            unet(**inputs)
    except Exception as error:  # whatever is raised, it does not run
        return Failure("forward", steps + operations.count, error)
    return None
