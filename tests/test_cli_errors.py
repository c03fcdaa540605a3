"""The mistakes that a user can make: one sentence, a hint, an exit code, nothing on stdout, no traceback."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import pytest

from tests.tiny import CONDITION, PLAIN, condition
from unetinspect import ConfigError, ForwardError, UsageError, trace
from unetinspect.unets import supported_classes

LISTED = "`unetinspect --help` lists the commands"
MISTAKES = [
    (
        "trace sdlx",
        "no model called 'sdlx'",
        "did you mean sdxl, svd-xt? `unetinspect models` lists the names; else give a path or a hub ID, org/name",
    ),
    ("trac sd15", "no such command 'trac'", f"did you mean `unetinspect trace`? {LISTED}"),
    ("sd15", "no such command 'sd15'", f"did you mean `unetinspect trace sd15`? {LISTED}"),
    ("mine.yaml", "no such command 'mine.yaml'", f"did you mean `unetinspect trace mine.yaml`? {LISTED}"),
    ("nothing", "no such command 'nothing'", LISTED),
    ("--verison", "no such option: --verison", f"did you mean --version? {LISTED}"),
    ("--res 5 trace", "no such option: --res", "put options after the command: unetinspect trace --res"),
    ("trace --rez 5", "no such option: --rez", "did you mean --res? `unetinspect trace --help` lists the options"),
    ("trace --resolution 5", "no such option: --resolution", "did you mean --res? `unetinspect trace --help` lists the options"),
    ("trace -x", "no such option: -x", "`unetinspect trace --help` lists the options"),
    ("skips sd15 sdxl", "unexpected argument (sdxl)", "`unetinspect skips --help` lists the options"),
    (
        "trace --format xml",
        "invalid value for '--format': 'xml' is not one of 'table', 'json', 'md', 'csv', 'tsv'",
        "`unetinspect trace --help` lists the options",
    ),
    (
        "trace --res 512x770",
        "--res 512x770 is not a multiple of the VAE scale factor 8",
        "the nearest sizes that are: --res 512x768 or --res 512x776",
    ),
    (
        "trace --res 5x",
        "--res: '5x' is not a size from 1 to 1048576",
        "write one side or height x width: --res 512, --res 512x768",
    ),
    ("trace --res 512 --latent 64", "--res and --latent both give a size", "give one: --res is in pixels, --latent is the sample itself"),
    ("trace --device gpu", "unknown device 'gpu'", "use auto, meta, cpu, cuda or cuda:N"),
    (
        "trace --dtype int8",
        "unknown dtype 'int8'",
        "use float32, float16, bfloat16, float64 or fp32, fp16, bf16, fp64, half, float",
    ),
    ("trace --json --format md", "--json and --format md cannot be used together", "use one of them"),
    ("models --from . --classes", "--from and --classes cannot be used together", "use one of them"),
    ("skips --explain --json", "--explain has no json form", "leave out --json"),
    ("inputs --code --format md", "--code has no md form", "leave out --format md"),
    ("schema --format csv", "schema has no csv form", "leave out --format csv"),
    (
        "trace --set cros_attention_dim=5",
        "UNet2DConditionModel has no config key cros_attention_dim",
        "did you mean cross_attention_dim? `unetinspect config` lists them all",
    ),
    ("trace --set layers_per_block", "--set layers_per_block is not KEY=VALUE", "--set cross_attention_dim=1024"),
    (
        "trace --set sample_size=[1",
        "--set sample_size=[1: the value cannot be read",
        "write it as JSON: --set 'sample_size=[320, 640]'",
    ),
    ("trace --with a --with b", "--with can be given only once", "--with a"),
    ("check sd15 --with t2i", "check does not support --with", "`unetinspect ports sd15 --with t2i` does"),
    ("trace --frames 8", "--frames: UNet2DConditionModel has no frames", "leave --frames out"),
    ("trace ddpm-cat-256 --tokens 8", "--tokens: no input of ddpm-cat-256 has tokens", "leave --tokens out"),
    (
        "attn --stage upblocks.1",
        "sd15 has no stage 'upblocks.1'",
        "did you mean one of up_blocks, up_blocks.0, up_blocks.1, up_blocks.2, up_blocks.3?",
    ),
    (
        "diff sd15",
        "diff needs two UNets",
        "`unetinspect diff sd15 sdxl`, or two sizes of one: `unetinspect diff sd15 --res 512,768`",
    ),
    ("diff - -", "- (standard input) can be given only once", "save it to a file"),
    ("diff sd15 --res 1,2,3", "--res 1,2,3: expected at most two values, for A and B", "--res 1,2"),
    (
        "names output_blocks.5.1",
        "no model called 'output_blocks.5.1'",
        (
            "`unetinspect models` lists the names; else give a path or a hub ID, org/name; "
            "put MODEL first: unetinspect names sd15 output_blocks.5.1"
        ),
    ),
]


@pytest.mark.parametrize(("words", "error", "hint"), MISTAKES, ids=[words for words, _, _ in MISTAKES])
def test_a_mistake_gets_a_sentence_a_hint_and_an_exit_code(cli: Any, words: str, error: str, hint: str) -> None:
    """The whole of stderr is the sentence and the hint; stdout is empty."""
    assert cli(*words.split()) == (3 if error.startswith("no model") else 2, "", f"error: {error}\nhint: {hint}\n")


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


@pytest.mark.parametrize("name", [None, "FluxTransformer2DModel", "BrushNetModel", "UNet2DConditionModl"])
def test_a_class_that_cannot_be_traced_is_refused_with_those_that_can(name: str | None) -> None:
    """Another kind of model, or a UNet class that this version does not know, never passes for a default UNet."""
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
