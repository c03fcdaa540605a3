"""The mistakes that a user can make: one sentence, a hint, an exit code, nothing on stdout, no traceback."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest

from tests.tiny import CONDITION, PLAIN, condition
from unetinspect import ConfigError, ForwardError, UsageError, trace
from unetinspect.cli.main import COMMANDS, load_command
from unetinspect.unets import supported_classes

# What is typed, and the whole of stderr.
MISTAKES: dict[str, str] = dict(
    re.findall(r"\$ unetinspect (.*)\n((?:.+\n)+)", Path(__file__).with_name("mistakes.txt").read_text(encoding="utf-8"))
)


@pytest.mark.parametrize("words", MISTAKES)
def test_a_mistake_gets_a_sentence_a_hint_and_an_exit_code(cli: Any, words: str) -> None:
    """The whole of stderr is the sentence and the hint; stdout is empty."""
    assert re.fullmatch("error: .+\nhint: .+\n", MISTAKES[words])
    assert cli(*words.split()) == (3 if "no model called" in MISTAKES[words] else 2, "", MISTAKES[words])


# Each option once, with the last command that has it.
OPTIONS = {
    (*option.opts, option.multiple): (name, option)
    for name in COMMANDS
    for option in load_command(name).params
    if option.param_type_name == "option"
}


@pytest.mark.parametrize(("name", "option"), OPTIONS.values(), ids=lambda value: value if isinstance(value, str) else value.name)
def test_no_option_wins_over_another_of_its_name(cli: Any, name: str, option: Any) -> None:
    """What takes one value is refused a second, whatever it is called; a list takes two, a plain flag may be repeated."""
    first, second = (option.opts[0], (option.secondary_opts or option.opts)[-1])
    value = [] if option.is_flag else ["k=1"]
    code, out, err = cli(name, first, *value, second, *value, "--format", "none")
    refusal = re.fullmatch(r"error: (.+) can be given only once\nhint: leave out all but one\n", err)
    if option.metavar == "KEY=VALUE":
        assert refusal is not None
        assert refusal[1] == f"{first} k"
        assert "only once" not in cli(name, first, "k=1", second, "l=1", "--format", "none")[2]
    elif option.multiple or (option.is_flag and not option.secondary_opts):
        assert refusal is None
    else:
        assert refusal is not None
        assert refusal[1] in (first, f"{first}/{second}")
    assert (code, out) == (2, "")


@pytest.mark.parametrize(
    ("words", "option"), [("help", "--help"), ("help trace", "trace --help"), ("version", "--version"), ("-V", "--version")]
)
def test_help_and_version_are_asked_for_as_elsewhere(cli: Any, words: str, option: str) -> None:
    """`help COMMAND` as git has it; `version` and `-V` beside the option."""
    code, out, err = cli(*option.split())

    assert (code, err) == (0, "")
    assert cli(*words.split()) == (code, out, err)


def test_a_size_that_does_not_run_gets_the_nearest_that_do(cli: Any) -> None:
    """DDPM-cat halves its sample five times: 100 px fail in an up block; 96 and 128 are tried before they are named."""
    code, out, err = cli("trace", "ddpm-cat-256", "--res", "100", "--device", "meta")

    assert (code, out) == (4, "")
    assert err.startswith(
        "error: the forward pass of ddpm-cat-256 at sample 100 failed in up_blocks.3: hidden_states are (1, 256, 24, 24), but"
    )
    assert err.endswith("hint: the nearest sizes that run: --res 96 or --res 128\n")
    assert cli("trace", "ddpm-cat-256", "--res", "96", "-q", "--device", "meta")[0] == 0


@pytest.mark.parametrize(
    ("model", "latent", "hint"),
    [
        ("ddpm-cat-256", 16, "the nearest size that runs: --latent 32"),
        ("ddpm-cat-256", (48, 80), "the nearest sizes that run: --latent 32x64 or --latent 64x96"),
        # A convolution with an even kernel makes the sample smaller by one, so that odd sizes run and even ones do not.
        (condition(conv_in_kernel=2, sample_size=15), 16, "the nearest sizes that run: --latent 15 or --latent 17"),
    ],
    ids=["only larger", "two sides", "the next of all"],
)
def test_nearest_sizes_in_sample_cells(model: Any, latent: Any, hint: str) -> None:
    """Asked for a sample size, the hint names sample sizes; where nothing smaller runs, only a larger one."""
    with pytest.raises(ForwardError) as raised:
        trace(model, latent=latent, device="meta")

    assert raised.value.hint == hint


def test_a_wrong_config_gets_every_mistake_at_once(cli: Any, tmp_path: Path) -> None:
    """Five mistakes, and what a word that was meant needs, each with what works, and the options to type, which do."""
    path = tmp_path / "wrong.json"
    wrong = {
        "down_block_types": ["CrossAttnDownBlok2D", "DownBlock2D"],
        "up_block_types": ["UpBlock2D"],
        "block_out_channels": [32, 65],
        "in_channels": 0,
        "addition_embed_type": "text_tim",
    }
    path.write_text(json.dumps({**CONDITION, **wrong}))

    code, out, err = cli("trace", str(path), "--device", "meta")

    assert (code, out) == (2, "")
    assert err.startswith("error: cannot build UNet2DConditionModel from wrong.json: 6 config errors\n")
    assert (
        '  - down_block_types contains "CrossAttnDownBlok2D", which UNet2DConditionModel does not know;'
        ' ["CrossAttnDownBlock2D", "DownBlock2D"] works\n'
    ) in err
    hint = err.splitlines()[-1].removeprefix("hint: ").removesuffix(" makes it run")
    assert cli("trace", str(path), "--device", "meta", "-q", *shlex.split(hint))[0] == 0


@pytest.mark.parametrize("name", [None, "BrushNetModel", "UNet2DConditionModl"])
def test_a_class_that_cannot_be_traced_is_refused_with_those_that_can(name: str | None) -> None:
    """No class, or one that this version does not know, never passes for a default UNet."""
    with pytest.raises(ConfigError) as raised:
        trace({**CONDITION, "_class_name": name})

    assert str(name) in raised.value.message or "has no _class_name" in raised.value.message
    assert ", ".join(sorted(supported_classes())) in (raised.value.hint or "")


@pytest.mark.parametrize(
    "options",
    [{"batch": 0}, {"batch": True}, {"tokens": -1}, {"res": (1, 2, 3)}, {"res": 0}, {"latent": 1.5}, {"device": "gpu"}, {"dtype": "int64"}],
    ids=str,
)
def test_python_callers_get_the_same_errors(options: dict[str, Any]) -> None:
    """A bad value is a UsageError in Python as on the command line."""
    with pytest.raises(UsageError):
        trace(PLAIN, **options)


def test_a_cuda_device_that_is_not_there(cli: Any) -> None:
    """Asking for a GPU where there is none, or one too many, names what there is."""
    code, out, err = cli("trace", "sd15", "--device", "cuda:99")

    assert (code, out) == (2, "")
    assert err.startswith("error: --device cuda:99: torch sees ")
    assert err.endswith("hint: use --device meta: the shapes are the same\n")
