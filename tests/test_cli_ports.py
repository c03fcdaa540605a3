"""What is added to a pass from outside, as a user types it: `ports`, `--with`, `--freeu`; and the same in Python."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import diffusers
import pytest

from tests.kinds_plugs import CONTROLNET
from tests.schema import assert_fits_the_schema
from tests.tiny import CONDITION, PLAIN, traced
from unetinspect import Trace, UsageError, trace
from unetinspect.views.header import header

RESIDUALS = [(2, 32, 16, 16), (2, 32, 16, 16), (2, 32, 8, 8), (2, 64, 8, 8)]  # conv_in; resnet and downsampler; resnet
FREEU = (1.2, 1.4, 0.9, 0.2)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a small UNet, a ControlNet that fits it, and one that does not."""
    monkeypatch.chdir(tmp_path)
    files = {
        "unet": CONDITION,
        "controlnet": CONTROLNET,
        "other": {**CONTROLNET, "block_out_channels": [32, 96], "cross_attention_dim": 40},
        "short": {**CONTROLNET, "block_out_channels": [32], "down_block_types": ["CrossAttnDownBlock2D"]},
        "plain": PLAIN,
    }
    for name, config in files.items():
        Path(f"{name}.json").write_text(json.dumps(config))
    return tmp_path


@pytest.mark.usefixtures("folder")
def test_ports_are_listed_with_their_shapes(cli: Any) -> None:
    """Four residuals and one for the mid block; both weights of a layer on one line; JSON has each weight."""
    code, out, err = cli("ports", "unet.json", "--device", "meta")
    _, text, _ = cli("ports", "unet.json", "--device", "meta", "--json")
    document = json.loads(text)
    ports = {port["name"]: port["shape"] for port in document["ports"]}

    assert (code, err) == (0, "")
    assert "ControlNet: 4 down-block residuals + 1 for the mid block, added to the skips" in out
    assert [ports[f"down_block_additional_residuals.{place}"] for place in range(4)] == [list(shape) for shape in RESIDUALS]
    assert out.count("to_k_ip, ") == sum(name.endswith("to_k_ip") for name in ports) == document["totals"]["attention"]["cross"]
    assert_fits_the_schema(document)


@pytest.mark.usefixtures("folder")
def test_a_controlnet_that_fits_is_told_so(cli: Any) -> None:
    """Every tensor side by side, and the verdict below; the record of the UNet is that without it."""
    code, out, err = cli("ports", "unet.json", "--with", "controlnet.json", "--device", "meta")
    _, text, _ = cli("ports", "unet.json", "--with", "controlnet.json", "--device", "meta", "--json")
    document = json.loads(text)

    assert (code, err) == (0, "")
    assert out.splitlines()[-1] == "controlnet.json (ControlNetModel) fits unet.json: all 6 shapes match"
    assert document["fit"]["fits"]
    assert [row["given"] for row in document["fit"]["rows"]][:4] == [list(shape) for shape in RESIDUALS]
    assert document["run"]["plugged"] is None
    assert_fits_the_schema(document)


@pytest.mark.usefixtures("folder")
def test_one_that_does_not_fit_is_told_where(cli: Any) -> None:
    """Which tensors, with both shapes; text of another width is one of them. The answer was found: exit 0."""
    code, out, err = cli("ports", "unet.json", "--with", "other.json", "--device", "meta")

    assert (code, err) == (0, "")
    assert "other.json (ControlNetModel) does not fit unet.json: 3 of 6 tensors differ" in out
    assert "down_block_additional_residuals.3 is (2, 96, 8, 8), and the UNet takes (2, 64, 8, 8)" in out
    assert "both are given one encoder_hidden_states: the UNet takes (2, 77, 24), other.json (2, 77, 40)" in out


@pytest.mark.usefixtures("folder")
def test_residuals_without_a_partner_are_counted(cli: Any) -> None:
    """Too few residuals are one line, not one each."""
    _, out, _ = cli("ports", "unet.json", "--with", "short.json", "--device", "meta")

    assert "down_block_additional_residuals: unet.json takes 4, short.json gives 2; unmatched: 2, 3" in out


@pytest.mark.usefixtures("folder")
def test_nothing_can_be_plugged_into_a_unet_without_ports(cli: Any) -> None:
    """A sentence instead of an empty table, also when something is held against it."""
    code, out, _ = cli("ports", "plain.json", "--device", "meta")
    _, held, _ = cli("ports", "plain.json", "--with", "controlnet.json", "--device", "meta")

    assert code == 0
    assert "UNet2DModel has no ports" in out
    assert "shape" not in out
    assert "does not fit plain.json: UNet2DModel has no port for its outputs" in held


@pytest.mark.usefixtures("folder")
def test_a_pass_with_a_controlnet_shows_what_is_added(cli: Any) -> None:
    """The header names it, the residuals are arguments, and every skip has its residual added on its way."""
    code, out, err = cli("skips", "unet.json", "--with", "controlnet.json", "--device", "meta")
    _, given, _ = cli("inputs", "unet.json", "--with", "controlnet.json", "--device", "meta", "--json")
    names = [spec["name"] for spec in json.loads(given)["run"]["inputs"]]

    assert (code, err) == (0, "")
    assert "with:   controlnet.json attached" in out
    assert "changed on the way, 4 of 4: + down_block_additional_residuals (up_blocks.0, up_blocks.1)" in out
    assert [name for name in names if "residual" in name][-2:] == [
        "down_block_additional_residuals.3",
        "mid_block_additional_residual",
    ]


@pytest.mark.usefixtures("folder")
def test_freeu_is_seen_in_the_skips(cli: Any) -> None:
    """Its two up blocks filter their skips; nothing else changes."""
    code, out, _ = cli("skips", "unet.json", "--freeu", "1.2,1.4,0.9,0.2", "--device", "meta")

    assert code == 0
    assert "FreeU:  b1 1.2, b2 1.4, s1 0.9, s2 0.2" in out
    assert "filtered in the Fourier domain" in out


@pytest.mark.parametrize(
    ("arguments", "code", "error", "hint"),
    [
        (["--freeu", "1,2"], 2, "--freeu: '1,2' is not four numbers above 0", "b1,b2,s1,s2: --freeu 1.2,1.4,0.9,0.2"),
        (["--freeu", "1,2,3,x"], 2, "--freeu: '1,2,3,x'", "b1,b2,s1,s2"),
        (["--freeu", "1,2,3,nan"], 2, "--freeu: '1,2,3,nan'", "b1,b2,s1,s2"),
        (
            ["--with", "unet.json"],
            2,
            "--with: a UNet2DConditionModel gives nothing that is plugged into a UNet",
            "--with takes a ControlNet",
        ),
        (["--with", "nothing-like-it"], 3, "no model called 'nothing-like-it'", "`unetinspect models` lists the names"),
        (
            ["--with", "other.json"],
            2,
            "other.json does not fit unet.json: ",
            "`unetinspect ports unet.json --with other.json` shows each tensor",
        ),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
@pytest.mark.usefixtures("folder")
def test_mistakes_get_a_sentence_and_a_hint(cli: Any, arguments: list[str], code: int, error: str, hint: str) -> None:
    """Nothing on stdout, one sentence, one hint."""
    found, out, err = cli("trace", "unet.json", *arguments, "--device", "meta")
    first, second = err.splitlines()

    assert (found, out) == (code, "")
    assert first.startswith(f"error: {error}")
    assert hint in second


@pytest.mark.usefixtures("folder")
def test_one_thing_is_plugged_in_at_a_time(cli: Any) -> None:
    """A second --with is not taken in silence."""
    code, out, err = cli("trace", "unet.json", "--with", "controlnet.json", "--with", "other.json")

    assert (code, out) == (2, "")
    assert err.startswith("error: --with can be given only once\nhint: ")


@pytest.mark.usefixtures("folder")
def test_changes_are_json_in_a_spreadsheet(cli: Any) -> None:
    """A list of records has no place in one cell but as JSON."""
    _, text, _ = cli("skips", "unet.json", "--with", "controlnet.json", "--format", "csv", "--device", "meta")
    rows = list(csv.DictReader(io.StringIO(text)))

    assert [json.loads(row["changes"])[0]["kind"] for row in rows] == ["sum"] * 4


@pytest.mark.usefixtures("folder")
def test_freeu_where_the_class_has_none(cli: Any) -> None:
    """UNet2DModel has no FreeU."""
    code, _, err = cli("trace", "plain.json", "--freeu", "1,1,1,1", "--device", "meta")

    assert code == 2
    assert "--freeu: UNet2DModel has no FreeU in diffusers" in err


@pytest.mark.usefixtures("folder")
def test_a_saved_trace_is_held_against_a_controlnet(cli: Any) -> None:
    """`ports` takes the saved record as it is; `trace --with` runs another pass and says so."""
    Path("saved.json").write_text(traced("conditioned").to_json())
    code, out, err = cli("ports", "saved.json", "--with", "controlnet.json")
    _, _, again = cli("trace", "saved.json", "--with", "controlnet.json", "--device", "meta")

    assert code == 0
    assert "controlnet.json (ControlNetModel) fits" in out
    assert "traced again" not in err
    assert "traced again" in again


def test_python_plugs_in_whatever_can_be_named() -> None:
    """A config, a module, a record: the same pass each time, and the same for a live UNet."""
    controlnet = diffusers.ControlNetModel.from_config(CONTROLNET)
    unet = diffusers.UNet2DConditionModel.from_config(CONDITION)
    given: list[Any] = [CONTROLNET, controlnet, trace(CONTROLNET, device="meta")]
    records = [trace(CONDITION, device="meta", plug_in=plug) for plug in given]
    live = trace(unet, device="meta", plug_in=CONTROLNET)

    assert records[0] == records[1] == records[2]
    assert live.skips == records[0].skips
    assert all(change.kind == "sum" for skip in live.skips for change in skip.changes)
    assert len([change for skip in live.skips for change in skip.changes]) == len(RESIDUALS)


def test_python_takes_freeu_and_refuses_what_is_no_model() -> None:
    """The factors come as numbers; a number is no model."""
    assert trace(CONDITION, device="meta", freeu=FREEU).run.freeu == FREEU
    with pytest.raises(UsageError, match="a model cannot be a int"):
        trace(CONDITION, device="meta", plug_in=3)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("model", "options", "lines"),
    [
        ("svd-xt", {"latent": (16, 24), "frames": 4}, ["size:   frame 128x192, sample 16x24 (--latent)", "frames: 4 (--frames)"]),
        ("audioldm2", {"latent": (16, 16)}, ["size:   spectrogram (time x mel bins) 64x64, sample 16x16 (--latent)"]),
        ("maestro-150k", {}, ["size:   sample of length 65536 (config)"]),
        ("stable-cascade-prior", {}, ["vae_scale_factor 42.67 (catalog)"]),
        ("sd15", {"freeu": FREEU, "res": 64}, ["FreeU:  b1 1.2, b2 1.4, s1 0.9, s2 0.2"]),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_the_header_says_what_each_size_means(model: str, options: dict[str, Any], lines: list[str]) -> None:
    """A frame of a video, a spectrogram, a length: what is not an image is not called one."""
    record: Trace = traced(model, **options)
    shown = "\n".join(header(record.model, record.run))

    for line in lines:
        assert line in shown
    assert ("image" in shown) == (record.run.medium == "image")
