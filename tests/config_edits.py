"""Random edits of one key in the configs of small UNets, and an oracle for each: whether bare diffusers builds and runs what comes out.

`python -m tests.config_edits 3000 SEED` compares as many edits with `trace` and prints each difference.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import cache
from random import Random
from typing import Any, NamedTuple
from unittest import mock

import torch

from tests.tiny import ALL, Config, model_of
from unetinspect import ConfigError, UnetInspectError, trace
from unetinspect.run.build import make_inputs, quiet_diffusers
from unetinspect.run.resolve import diffusers_class, plan_pass, resolve_config
from unetinspect.unets.request import Request

EDITED = tuple(kind for kind, config in ALL.items() if config["_class_name"] != "MotionAdapter")  # it runs inside a UNet
# One of each class, and the smallest of them.
SMALL = (
    *("conditioned", "plain", "unet1d-temporal", "kandinsky3-one-level", "cascade-prior", "uvit", "dreamlite", "audioldm2", "unet3d"),
    *("i2vgen", "motion", "svd", "sparse-controlnet", "controlnet", "controlnet-xs", "t2i-adapter"),
)
WORDS = ("x", "silu", "text", "text_time", "image", "fourier", "projection", "scale_shift", "conv", "UNetMidBlock2D", "DownBlock2D", "5")


class Edit(NamedTuple):
    """One key of a small UNet's config with another value."""

    kind: str
    key: str
    value: Any

    @property
    def config(self) -> Config:
        """The edited config."""
        return {**ALL[self.kind], self.key: self.value}


def random_edits(count: int, seed: int, kinds: Sequence[str]) -> Iterator[Edit]:
    """Yield edits: of a random kind, one of its class's keys, another value or a value of another type."""
    random = Random(seed)
    for _ in range(count):
        kind = random.choice(kinds)
        values = resolve_config(ALL[kind]).values
        key = random.choice(list(values))
        yield Edit(kind, key, _other_value(values[key], random))


def _other_value(value: Any, random: Random) -> Any:
    """Return another value: one that is near, or one of another type."""
    near: list[Any] = [None, True, False, 0, 1, 2, 3, 5, 8, 16, -1, 0.5, [], [1], [2, 4], [8, 8, 8], random.choice(WORDS), str(value)]
    if isinstance(value, list):
        near += [value[:-1], [*value, *value[-1:]], value[::-1], *value, [None, *value[1:]], [list(value)]] if value else []
    elif isinstance(value, int | float):
        near += [value + 1, value - 1, value * 2, value // 2, float(value), [value], [value, value], -value]
    elif value is not None:
        near += [[value], value * 2, value[:-1]]
    return random.choice([other for other in near if repr(other) != repr(value)])


def bare_runs(kind: str, config: Config) -> bool:
    """Build a changed config of a kind with diffusers on meta and run it: with the kind's own inputs, or else with those of the config."""
    try:
        with quiet_diffusers(), torch.device("meta"):
            unet = diffusers_class(config["_class_name"])(**resolve_config(config).values).to("meta").eval()
    except Exception:  # whatever it raises, it is not built
        return False
    # A size that the config asks for is part of the question.
    size = config.get("sample_size")
    is_asked = size != ALL[kind].get("sample_size") and _is_size(size)
    return any(_runs(unet, inputs, _length(kind)) for inputs in ([config] if is_asked else [ALL[kind], config]))


@cache
def _length(kind: str) -> int | None:
    """Return the length at which a signal of a kind runs: the config's own often does not. None: it is not a signal."""
    is_signal = ALL[kind]["_class_name"] == "UNet1DModel"
    return trace(ALL[kind], device="meta", cache=False).run.sample_size[0] if is_signal else None


def _runs(unet: torch.nn.Module, config: Config, length: int | None) -> bool:
    try:
        resolved = resolve_config(config)
        request = Request(latent=None if length is None else (length, length))
        planned = plan_pass(model_of(config), resolved.class_name, resolved.values, request)
        inputs = make_inputs(planned.run.inputs, device=torch.device("meta"), dtype=torch.float32)
        with quiet_diffusers(), torch.no_grad():
            unet(**inputs)
    except Exception:  # whatever it raises, it does not run
        return False
    return True


def _is_size(value: Any) -> bool:
    sides = value if isinstance(value, list) else [value]
    return 0 < len(sides) <= 2 and all(type(side) is int and side > 0 for side in sides)


def trace_runs(edit: Edit) -> bool:
    """Trace an edited config on meta, however large. Why it is refused is not looked for."""
    with mock.patch("unetinspect.run.trial.Trial.explained", return_value=ConfigError("refused")):
        try:
            trace(edit.config, device="meta", latent=_length(edit.kind), force=True, cache=False)
        except UnetInspectError:
            return False
    return True


def compare(count: int, seed: int, kinds: Sequence[str] = EDITED) -> tuple[Counter[str], list[tuple[Edit, bool]]]:
    """Compare `trace` with bare diffusers; returns how many edits ran and were refused, and those that the two judge differently."""
    counts: Counter[str] = Counter()
    different = []
    for edit in random_edits(count, seed, kinds):
        runs = bare_runs(edit.kind, edit.config)
        counts["runs" if runs else "raises"] += 1
        if trace_runs(edit) != runs:
            different.append((edit, runs))
    return counts, different


if __name__ == "__main__":
    found, differences = compare(int(sys.argv[1]), int(sys.argv[2]))
    for edit, runs in differences:
        print(f"{edit.kind}: {edit.key} = {edit.value!r}, in diffusers it {'runs' if runs else 'raises'}")
    print(dict(found), f"{len(differences)} differences")
