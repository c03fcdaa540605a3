"""What is added to a pass from outside, as a user types it: `ports`, `--with`, `--freeu`."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest

from tests.checkpoints import header_of, write_checkpoint
from tests.schema import assert_fits_the_schema
from tests.tiny import CONDITION, PLAIN, config_of, traced
from unetinspect import Trace
from unetinspect.views.header import header

RESIDUALS = [(2, 32, 16, 16), (2, 32, 16, 16), (2, 32, 8, 8), (2, 64, 8, 8)]  # conv_in; resnet and downsampler; resnet
FREEU = (1.2, 1.4, 0.9, 0.2)


@pytest.fixture
def run(cli: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Run commands on meta in a folder with a small UNet, a ControlNet that fits it, and two that do not; returns stdout."""
    monkeypatch.chdir(tmp_path)
    files = {
        "unet": CONDITION,
        "controlnet": config_of("controlnet"),
        "other": config_of("controlnet", block_out_channels=[32, 96], cross_attention_dim=40),
        "short": config_of("controlnet", block_out_channels=[32], down_block_types=["CrossAttnDownBlock2D"]),
        "plain": PLAIN,
    }
    for name, config in files.items():
        Path(f"{name}.json").write_text(json.dumps(config))

    def run(*arguments: str, code: int = 0) -> str:
        found, out, err = cli(*arguments, "--device", "meta")

        assert (found, err) == (code, "")
        return str(out)

    return run


def test_ports_are_listed_with_their_shapes(run: Any) -> None:
    """Four residuals and one for the mid block; both weights of a layer on one line; JSON has each weight."""
    out = run("ports", "unet.json")
    document = json.loads(run("ports", "unet.json", "--json"))
    ports = {port["name"]: port["shape"] for port in document["ports"]}

    assert "ControlNet: 4 down-block residuals + 1 for the mid block, added to the skips" in out
    assert [ports[f"down_block_additional_residuals.{place}"] for place in range(4)] == [list(shape) for shape in RESIDUALS]
    assert out.count("to_k_ip, ") == sum(name.endswith("to_k_ip") for name in ports) == document["totals"]["attention"]["cross"]
    assert_fits_the_schema(document)


def test_a_controlnet_that_fits_gets_that_verdict(run: Any) -> None:
    """The verdict, and every tensor side by side; the record of the UNet is that without it."""
    out = run("ports", "unet.json", "--with", "controlnet.json")
    document = json.loads(run("ports", "unet.json", "--with", "controlnet.json", "--json"))

    assert out.splitlines()[0] == "controlnet.json (ControlNetModel) fits unet.json: all 6 shapes match"
    assert document["fit"]["fits"]
    assert [row["given"] for row in document["fit"]["rows"]][:4] == [list(shape) for shape in RESIDUALS]
    assert document["run"]["plugged"] is None
    assert_fits_the_schema(document)


@pytest.mark.parametrize(
    ("unet", "controlnet", "lines"),
    [
        (
            "unet.json",
            "other.json",
            [
                "other.json (ControlNetModel) does not fit unet.json: 3 of 6 tensors differ",
                "down_block_additional_residuals.3 is (2, 96, 8, 8); the UNet expects (2, 64, 8, 8)",
                "both receive the same encoder_hidden_states: the UNet expects (2, 77, 24), other.json (2, 77, 40)",
            ],
        ),
        ("unet.json", "short.json", ["down_block_additional_residuals: unet.json takes 4, short.json gives 2; unmatched: 2, 3"]),
        ("plain.json", "controlnet.json", ["does not fit plain.json: UNet2DModel has no port for its outputs"]),
    ],
)
def test_one_that_does_not_fit_is_described(run: Any, unet: str, controlnet: str, lines: list[str]) -> None:
    """Which tensors, with both shapes; a text of another width is one of them; missing residuals are one line. Exit 1."""
    out = run("ports", unet, "--with", controlnet, code=1)

    assert all(line in out for line in lines)


def ip_adapter(width: int, tokens: int, layers: int = 3) -> dict[str, tuple[int, ...]]:
    """Return an IP-Adapter Plus for the small UNet, whose cross-attention layers have 64 channels, in the order of `attn_processors`."""
    weights = {f"ip_adapter.{2 * layer + 1}.{name}.weight": (64, width) for layer in range(layers) for name in ("to_k_ip", "to_v_ip")}
    return {"image_proj.latents": (1, tokens, width), "image_proj.proj_in.weight": (width, 1280), **weights}


def test_an_ip_adapter_that_fits_has_the_widths_of_every_layer(run: Any) -> None:
    """Each key against its layer, tokens of any number against the width of the text; its kind is shown by its image projection."""
    document = json.loads(run("ports", "unet.json", "--json"))
    weights = {port["name"]: tuple(port["shape"]) for port in document["ports"] if port["kind"] == "ip-adapter" and "." in port["name"]}
    named = {f"ip_adapter.{name}.weight": shape for name, shape in weights.items()}
    write_checkpoint(Path("ip.safetensors"), header_of({**ip_adapter(24, 16, 0), **named}))
    out = run("ports", "unet.json", "--with", "ip.safetensors")
    fit = json.loads(run("ports", "unet.json", "--with", "ip.safetensors", "--json"))["fit"]

    assert out.splitlines()[0] == f"ip.safetensors (IP-Adapter Plus) fits unet.json: all {len(weights) + 1} shapes match"
    assert (fit["fits"], fit["class_name"]) == (True, "IP-Adapter Plus")
    assert {row["name"]: tuple(row["given"]) for row in fit["rows"]} == {**weights, "image_tokens": (2, 16, 24)}


def test_an_ip_adapter_that_does_not_fit_is_described(run: Any, cli: Any) -> None:
    """Another width, another number of layers; a UNet without ports for it; elsewhere than in `ports`, the hint leads there."""
    write_checkpoint(Path("ip.safetensors"), header_of(ip_adapter(40, 4, 20)))
    out = run("ports", "unet.json", "--with", "ip.safetensors", code=1)
    takes = json.loads(run("ports", "unet.json", "--json"))["totals"]["attention"]["cross"]

    assert f"to_k_ip: unet.json takes {takes}, ip.safetensors gives 20; unmatched: {2 * takes + 1}, " in out
    assert "image_tokens is (2, 4, 40); the UNet expects (2, 4, 24)" in out
    assert "has no port" in run("ports", "plain.json", "--with", "ip.safetensors", code=1)
    code, _, err = cli("skips", "unet.json", "--with", "ip.safetensors")
    assert code == 3
    assert "`unetinspect ports MODEL --with FILE` checks whether an IP-Adapter fits a UNet" in err


def test_a_unet_without_ports_has_no_table(run: Any) -> None:
    """A sentence instead."""
    out = run("ports", "plain.json")

    assert "UNet2DModel has no ports" in out
    assert "shape" not in out


def test_a_pass_with_a_controlnet_shows_what_is_added(run: Any) -> None:
    """The header names it, the residuals are arguments, and every skip has its residual added on its way; in CSV that is JSON."""
    attached = ("unet.json", "--with", "controlnet.json")
    out = run("skips", *attached)
    names = [spec["name"] for spec in json.loads(run("inputs", *attached, "--json"))["run"]["inputs"]]
    rows = list(csv.DictReader(io.StringIO(run("skips", *attached, "--format", "csv"))))

    assert "with:   controlnet.json attached" in out
    assert "changed on the way, 4 of 4: + down_block_additional_residuals (up_blocks.0, up_blocks.1)" in out
    assert [name for name in names if "residual" in name][-2:] == ["down_block_additional_residuals.3", "mid_block_additional_residual"]
    assert [json.loads(row["changes"])[0]["kind"] for row in rows] == ["sum"] * 4


def test_freeu_is_seen_in_the_skips(run: Any) -> None:
    """Its two up blocks filter their skips; nothing else changes."""
    out = run("skips", "unet.json", "--freeu", "1.2,1.4,0.9,0.2")

    assert "FreeU:  b1 1.2, b2 1.4, s1 0.9, s2 0.2" in out
    assert "filtered in the Fourier domain" in out


@pytest.mark.parametrize(
    ("arguments", "code", "error", "hint"),
    [
        (["unet.json", "--freeu", "1,2"], 2, "--freeu: '1,2' is not four numbers above 0", "b1,b2,s1,s2: --freeu 1.2,1.4,0.9,0.2"),
        (["unet.json", "--freeu", "1,2,3,nan"], 2, "--freeu: '1,2,3,nan'", "b1,b2,s1,s2"),
        (["plain.json", "--freeu", "1,1,1,1"], 2, "--freeu: UNet2DModel has no FreeU in diffusers", "leave --freeu out"),
        (
            ["unet.json", "--with", "unet.json"],
            2,
            "--with: UNet2DConditionModel cannot be attached to a UNet",
            "these can: ControlNetModel",
        ),
        (["unet.json", "--with", "nothing-like-it"], 3, "no model called 'nothing-like-it'", "`unetinspect models` lists the names"),
        (
            ["unet.json", "--with", "other.json"],
            2,
            "other.json does not fit unet.json: ",
            "`unetinspect ports unet.json --with other.json` shows each tensor",
        ),
        (["unet.json", "--with", "controlnet.json", "--with", "other.json"], 2, "--with can be given only once", "leave out all but one"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
@pytest.mark.usefixtures("run")
def test_mistakes_get_a_sentence_and_a_hint(cli: Any, arguments: list[str], code: int, error: str, hint: str) -> None:
    """Nothing on stdout, one sentence, one hint."""
    found, out, err = cli("trace", *arguments, "--device", "meta")
    first, second = err.splitlines()

    assert (found, out) == (code, "")
    assert first.startswith(f"error: {error}")
    assert hint in second


@pytest.mark.usefixtures("run")
def test_a_saved_trace_is_compared_with_a_controlnet(cli: Any) -> None:
    """`ports` uses the saved record as it is; `trace --with` runs traced again and says so."""
    Path("saved.json").write_text(traced("conditioned").to_json())
    code, out, err = cli("ports", "saved.json", "--with", "controlnet.json")
    _, _, again = cli("trace", "saved.json", "--with", "controlnet.json", "--device", "meta")

    assert code == 0
    assert "controlnet.json (ControlNetModel) fits" in out
    assert "traced again" not in err
    assert "traced again" in again


@pytest.mark.parametrize(
    ("model", "options", "lines"),
    [
        (
            "svd",
            {"latent": (16, 24), "frames": 4, "vae_scale": 8},
            ["size:   frame 128x192, sample 16x24 (--latent)", "frames: 4 (--frames)"],
        ),
        (
            "audioldm2-one-text",
            {"latent": (16, 16), "vae_scale": 4},
            ["size:   spectrogram (time x mel bins) 64x64, sample 16x16 (--latent)"],
        ),
        ("unet1d-audio", {}, ["size:   sample of length 64 (config)"]),
        ("stable-cascade-prior", {}, ["vae_scale_factor 42.67 (catalog)"]),
        ("conditioned", {"freeu": FREEU, "vae_scale": 8}, ["FreeU:  b1 1.2, b2 1.4, s1 0.9, s2 0.2"]),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_the_header_says_what_each_size_means(model: str, options: dict[str, Any], lines: list[str]) -> None:
    """A frame of a video, a spectrogram, a length: only an image is called an image."""
    record: Trace = traced(model, **options)
    shown = "\n".join(header(record.model, record.run))

    for line in lines:
        assert line in shown
    assert ("image" in shown) == (record.run.medium == "image")
