"""Every mistake that a user can make: one sentence, a hint, an exit code, nothing on stdout, no traceback."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import pytest

from tests.tiny import CONDITION, PLAIN
from unetinspect import ConfigError, ForwardError, UsageError, trace

SUPPORTED = (
    "AudioLDM2UNet2DConditionModel, ControlNetModel, ControlNetUnionModel, DreamLiteUNetModel, I2VGenXLUNet, Kandinsky3UNet, "
    "MotionAdapter, SparseControlNetModel, StableCascadeUNet, T2IAdapter, UNet1DModel, UNet2DConditionModel, UNet2DModel, "
    "UNet3DConditionModel, UNetControlNetXSModel, UNetMotionModel, UNetSpatioTemporalConditionModel, UVit2DModel"
)


@pytest.mark.parametrize(
    ("arguments", "code", "error", "hint"),
    [
        (
            ["trace", "sdlx"],
            3,
            "no model called 'sdlx'",
            "did you mean sdxl, svd-xt? `unetinspect models` lists the names; else give a path or a hub ID, org/name",
        ),
        (["trac", "sd15"], 2, "No such command 'trac'", "did you mean `unetinspect trace`?"),
        (
            ["sd15"],
            2,
            "No such command 'sd15'",
            (
                "did you mean `unetinspect trace sd15`? the commands are trace, skips, attn, tree, inputs, ports, sweep, profile, "
                "diff, draw, names, check, identify, explain-error, config, models, cache, schema"
            ),
        ),
        (["trace", "--rez", "5"], 2, "No such option: --rez", "did you mean --res? `unetinspect trace --help` lists what it takes"),
        (["skips", "sd15", "sdxl"], 2, "Got unexpected extra argument(s) (sdxl)", "`unetinspect skips --help` lists what it takes"),
        (
            ["trace", "--res", "100"],
            2,
            "--res 100 is not a multiple of the VAE scale factor 8",
            "the nearest sizes that are: --res 96 or --res 104",
        ),
        (
            ["trace", "--res", "512x770"],
            2,
            "--res 512x770 is not a multiple of the VAE scale factor 8",
            "the nearest sizes that are: --res 512x768 or --res 512x776",
        ),
        (
            ["trace", "--res", "5x"],
            2,
            "--res: '5x' is not a size from 1 to 1048576",
            "write one side or height x width: --res 512, --res 512x768",
        ),
        (
            ["trace", "--res", "512", "--latent", "64"],
            2,
            "--res and --latent both give a size",
            "give one: --res is in pixels, --latent is the sample itself",
        ),
        (["trace", "--device", "tpu"], 2, "unknown device 'tpu'", "use auto, meta, cpu, cuda or cuda:N"),
        (
            ["trace", "--dtype", "int8"],
            2,
            "unknown dtype 'int8'",
            "use float32, float16, bfloat16, float64 or fp32, fp16, bf16, fp64, half, float",
        ),
        (["trace", "--json", "--format", "md"], 2, "--json and --format md contradict each other", "give one of them"),
        (["skips", "--explain", "--json"], 2, "--explain prints words, and has no json form", "leave out --explain, or --json"),
        (
            ["skips", "--explain", "--format", "csv"],
            2,
            "--explain prints words, and has no csv form",
            "leave out --explain, or --format csv",
        ),
        (["inputs", "--code", "--format", "md"], 2, "--code prints Python, and has no md form", "leave out one of the two"),
        (
            ["trace", "--set", "cros_attention_dim=5"],
            2,
            "UNet2DConditionModel has no config key cros_attention_dim",
            "did you mean cross_attention_dim? `unetinspect config` lists them all",
        ),
        (["trace", "--set", "layers_per_block"], 2, "--set layers_per_block is no key=value", "--set cross_attention_dim=1024"),
        (
            ["trace", "--set", "sample_size=[1"],
            2,
            "--set sample_size=[1: the value cannot be read",
            "write it as JSON: --set 'sample_size=[320, 640]'",
        ),
        (["trace", "--frames", "8"], 2, "--frames: UNet2DConditionModel has no frames", "leave --frames out"),
        (
            ["trace", "ddpm-cat-256", "--tokens", "8"],
            2,
            "--tokens: none of the inputs of ddpm-cat-256 has tokens",
            "leave --tokens out",
        ),
        (
            ["attn", "--stage", "upblocks.1"],
            2,
            "--stage upblocks.1: sd15 has no such stage",
            "did you mean one of up_blocks, up_blocks.0, up_blocks.1, up_blocks.2, up_blocks.3?",
        ),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_mistake_gets_a_sentence_a_hint_and_an_exit_code(cli: Any, arguments: list[str], code: int, error: str, hint: str) -> None:
    """The whole of stderr is the sentence and the hint; stdout is empty."""
    device = [] if "--device" in arguments or arguments[0] not in ("trace", "skips", "attn", "inputs") else ["--device", "meta"]

    assert cli(*arguments, *device) == (code, "", f"error: {error}\nhint: {hint}\n")


def test_a_size_that_does_not_run_gets_the_nearest_that_do(cli: Any) -> None:
    """DDPM-cat halves its sample five times: 100 px fail in an up block; 96 and 128 are tried before they are named."""
    code, out, err = cli("trace", "ddpm-cat-256", "--res", "100", "--device", "meta")

    assert (code, out) == (4, "")
    assert err.startswith("error: the forward pass of ddpm-cat-256 at sample 100 failed in up_blocks.3: Sizes of tensors must match")
    assert err.endswith("hint: the nearest sizes that run: --res 96 or --res 128\n")
    assert cli("trace", "ddpm-cat-256", "--res", "96", "-q", "--device", "meta")[0] == 0


@pytest.mark.parametrize(
    ("latent", "nearest"),
    [(16, "--latent 32"), ((48, 80), "--latent 32x64 or --latent 64x96"), (33, "--latent 32 or --latent 64")],
)
def test_nearest_sizes_in_sample_cells(latent: Any, nearest: str) -> None:
    """Asked for a sample size, the hint names sample sizes; where nothing smaller runs, only a larger one."""
    with pytest.raises(ForwardError) as raised:
        trace("ddpm-cat-256", latent=latent, device="meta")

    which = "sizes that run" if " or " in nearest else "size that runs"
    assert raised.value.hint == f"the nearest {which}: {nearest}"


def test_the_next_size_of_all_is_tried_too() -> None:
    """A convolution with an even kernel makes the sample smaller by one, so that odd sizes run and even ones do not."""
    with pytest.raises(ForwardError) as raised:
        trace({**CONDITION, "conv_in_kernel": 2}, device="meta")

    assert raised.value.hint == "the nearest sizes that run: --latent 15 or --latent 17"


def test_a_wrong_config_gets_every_mistake_at_once(cli: Any, tmp_path: Path) -> None:
    """Five mistakes, and what a word that was meant needs, are told together, each with what works, and the options to type, which do."""
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
    assert SUPPORTED in (raised.value.hint or "")


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
