"""`identify`: what a header says of every kind of file that people have beside a UNet."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import structs

from tests.checkpoints import ORIGINALS, Shapes, built_shapes, header_of, original_unet, write_checkpoint
from unetinspect.catalog import load_catalog
from unetinspect.checkpoint.identify import identify
from unetinspect.checkpoint.safetensors_header import PREFIX_BYTES, Header, TensorSpec, header_length, parse_header
from unetinspect.record import Checkpoint
from unetinspect.views.checks import checkpoint_table, checkpoints_table
from unetinspect.views.render import Screen, render_table

_KINDS = yaml.safe_load(Path(__file__).with_name("checkpoint_kinds.yaml").read_text(encoding="utf-8"))
FILES: dict[str, Shapes] = {name: {key: tuple(shape) for key, shape in kind["tensors"].items()} for name, kind in _KINDS.items()}
VAE = FILES["VAE, original"]
CLIP = "transformer.text_model.encoder.layers.0.self_attn.k_proj.weight"


def whole(model: str = "sd15", **metadata: str) -> Header:
    """Return the header of a whole checkpoint, its other parts cut short."""
    unet = original_unet(ORIGINALS[model], "model.diffusion_model.")
    vae = {f"first_stage_model.{name}": shape for name, shape in VAE.items()}
    return header_of({**unet, **vae, f"cond_stage_model.{CLIP}": (768, 768), "betas": (1000,)}, metadata=metadata)


@pytest.mark.parametrize("name", FILES)
def test_each_kind_of_file_is_found_by_a_handful_of_its_names(name: str) -> None:
    """Content, layout, class and family; and a sentence of evidence that quotes a name of the file."""
    shapes = FILES[name]
    found = identify(header_of(shapes))

    assert [found.content, found.layout, found.class_name, found.family] == _KINDS[name]["is"]
    assert not shapes or any(repr(tensor) in sentence for tensor in shapes for sentence in found.evidence)
    assert sum(part.tensors for part in found.parts) == len(shapes)


def test_a_whole_checkpoint_is_a_pipeline_and_says_so_in_one_sentence() -> None:
    """UNet, VAE and text encoder are parts of their own; what stands without a prefix is other."""
    found = identify(whole())

    assert found.summary == "a whole Stable Diffusion 1 checkpoint in the original layout, like sd15: UNet, VAE and text encoder, float16"
    assert [(part.name, part.prefix) for part in found.parts] == [
        ("unet", "model.diffusion_model."),
        ("vae", "first_stage_model."),
        ("text_encoder", "cond_stage_model."),
        ("other", ""),
    ]
    assert found.bytes == sum(size for part in found.parts for size in part.bytes_by_dtype.values()) == 2 * found.params
    assert found.models == ("sd15", "sd14", "sd-image-variations")


def test_evidence_quotes_the_tensors_that_decide() -> None:
    """Width of the text, channels of the sample, the projection, the added embedding: each with its name and shape."""
    unet = "model.diffusion_model."

    assert identify(whole("sdxl")).evidence == (
        f"'{unet}input_blocks.0.0.weight' is a tensor of a UNet in the original layout (LDM, ComfyUI)",
        f"'{unet}input_blocks.0.0.weight' is (320, 4, 3, 3): 4 input channels, 320 in the first block",
        f"'{unet}input_blocks.4.1.transformer_blocks.0.attn2.to_k.weight' is (640, 2048): cross-attends to 2048-dim text embeddings",
        f"'{unet}input_blocks.4.1.proj_in.weight' is (640, 640): a linear layer, as in Stable Diffusion 2 and XL",
        f"'{unet}label_emb.0.0.weight' is (1280, 2816): 2816-dim input of the added embedding",
        "2,567,463,684 parameters and the structure of sdxl, sdxl-turbo (catalog)",
        "3 tensors with prefix 'first_stage_model.': the VAE",
        "1 tensor with prefix 'cond_stage_model.': the text encoder",
    )


def test_what_is_assumed_is_said_with_its_source() -> None:
    """Heads are those of a model in the catalog if one fits, else the usual; metadata may say what is predicted."""
    like = identify(whole()).untold
    unlike = identify(header_of(original_unet(replace(ORIGINALS["sd15"], in_channels=12))))
    predicted = identify(whole(**{"modelspec.prediction_type": "epsilon"}))
    prediction = "epsilon or v-prediction: a scheduler setting, not in the file"

    assert like == (
        "attention_head_dim 8, sample_size 64, norm_num_groups 32, act_fn 'silu': assumed, as in sd15 of the catalog",
        "same structure: sd14, sd-image-variations (equivalent configs)",
        prediction,
    )
    assert unlike.untold == (
        "attention_head_dim 8: assumed, as in Stable Diffusion 1",
        "sample_size 64, norm_num_groups 32, act_fn 'silu': assumed, the usual values",
        prediction,
    )
    assert (unlike.models, (unlike.config or {})["in_channels"]) == ((), 12)
    assert predicted.untold == like[:-1]
    assert "metadata modelspec.prediction_type: 'epsilon'" in predicted.evidence


def test_a_unet_that_cannot_be_read_says_why_and_has_no_config() -> None:
    """A tensor is missing, or a video UNet has a size that no model of the catalog has."""
    shapes = original_unet(ORIGINALS["sd15"])
    del shapes["time_embed.0.weight"]
    cut = identify(header_of(shapes))
    video = identify(header_of(FILES["SVD, original"]))

    assert (cut.config, cut.untold[0]) == (None, "cannot infer the config: tensor 'time_embedding.linear_1.weight' is missing")
    assert (video.config, video.untold) == (None, ("cannot infer the config of UNetSpatioTemporalConditionModel: use its config.json",))


def test_the_rank_of_a_lora_is_the_side_that_its_two_matrices_share() -> None:
    """Also where it is trained for a convolution, whose kernel is smaller than the rank."""
    shapes = {"lora_unet_input_blocks_1_0_in_layers_2.lora_down.weight": (8, 320, 3, 3), "lora_unet_x_to_k.lora_up.weight": (320, 8)}
    both = [identify(header_of({name: shape})).evidence[0] for name, shape in shapes.items()]

    assert all(sentence.endswith("of rank 8") for sentence in both)


def test_marker_tensors_say_what_a_unet_predicts() -> None:
    """Empty or of one number, beside the UNet or among its tensors; they are no parameters and change nothing else."""
    shapes = original_unet(ORIGINALS["sdxl"])
    plain = identify(header_of(shapes))
    for prefix, shape in (("", ()), ("model.diffusion_model.", (0,))):
        marked = {**{prefix + name: own for name, own in shapes.items()}, "v_pred": shape, "ztsnr": shape}
        found = identify(header_of(marked))

        assert (found.models, found.params, found.config) == (plain.models, plain.params, plain.config)
        assert {"marker tensor 'v_pred': v-prediction", "marker tensor 'ztsnr': zero terminal SNR"} <= set(found.evidence)
        assert set(plain.untold) - set(found.untold) == {"epsilon or v-prediction: a scheduler setting, not in the file"}


MOTION: dict[str, dict[str, Any]] = {
    "v1, 4 levels, no mid block, 24 frames": {"use_motion_mid_block": False, "motion_max_seq_length": 24},
    "v2, 4 levels, a mid block, 32 frames": {"use_motion_mid_block": True},
    "v3, 4 levels, no mid block, 32 frames": {"use_motion_mid_block": False},
    "SDXL beta, 3 levels, no mid block, 32 frames": {"block_out_channels": [320, 640, 1280], "use_motion_mid_block": False},
}


@pytest.mark.parametrize("version", MOTION)
def test_versions_of_motion_modules_are_told_apart(version: str) -> None:
    """By what diffusers builds: levels, mid block, and the length of the table of positions."""
    config = {"_class_name": "MotionAdapter", **MOTION[version]}
    # The program builds the whole UNet with the adapter in it.
    found = identify(header_of({name: shape for name, shape in built_shapes(config).items() if ".motion_modules." in name}))

    assert f"({version})" in found.summary
    assert found.family == ("Stable Diffusion XL" if version.startswith("SDXL") else "Stable Diffusion 1")


def test_a_controlnet_of_sd2_has_the_config_of_the_unet_whose_encoder_it_has() -> None:
    """Built again from it, it has the same tensors; GLIGEN is named in a UNet's summary."""
    unet = load_catalog()["sd21"].config
    shared = {key: value for key, value in unet.items() if key in load_catalog()["controlnet-sd15-canny"].config and key[0] != "_"}
    shapes = built_shapes({**shared, "_class_name": "ControlNetModel", "conditioning_embedding_out_channels": [16, 32, 64, 128]})
    found = identify(header_of(shapes))

    assert (found.family, found.summary.partition(" in ")[0]) == (
        "Stable Diffusion 2",
        "a ControlNet (ControlNetModel) for Stable Diffusion 2",
    )
    assert built_shapes(found.config or {}) == shapes
    assert "with GLIGEN" in identify(header_of(built_shapes({**load_catalog()["sd15"].config, "attention_type": "gated"}))).summary


PROJECTIONS = {
    "IP-Adapter (4 image tokens,": {"proj.weight": (3072, 1024), "norm.weight": (768,)},
    "IP-Adapter Plus (16 image tokens,": {"latents": (1, 16, 768), "proj_in.weight": (768, 1280), "norm_out.weight": (768,)},
    "IP-Adapter of InstantID (16 image tokens,": {"latents": (1, 16, 768), "proj_in.weight": (768, 512)},  # of a face
    "IP-Adapter Full (": {"proj.0.weight": (1280, 1280), "proj.2.weight": (768, 1280), "proj.3.weight": (768,)},
    "IP-Adapter FaceID (4 image tokens,": {"proj.0.weight": (1024, 512), "proj.2.weight": (3072, 1024), "norm.weight": (768,)},
    "IP-Adapter FaceID Plus (4 image tokens,": {
        "proj.0.weight": (1024, 512),
        "proj.2.weight": (3072, 1024),
        "norm.weight": (768,),
        "perceiver_resampler.proj_in.weight": (768, 1280),
    },
}


@pytest.mark.parametrize("kind", PROJECTIONS)
def test_kinds_of_ip_adapters_are_those_of_their_image_projection(kind: str) -> None:
    """As diffusers' loader tells them apart."""
    image = {f"image_proj.{name}": shape for name, shape in PROJECTIONS[kind].items()}
    found = identify(header_of({**image, "ip_adapter.1.to_k_ip.weight": (320, 768), "ip_adapter.1.to_v_ip.weight": (320, 768)}))

    assert found.summary.startswith(f"an {kind}")


def test_dtypes_are_those_that_weigh() -> None:
    """Two dtypes are named where both take a hundredth of the bytes or more; one tensor in another is not."""
    shapes = original_unet(ORIGINALS["sd15"])
    half = header_of(shapes)
    few = {**half.tensors, "time_embed.0.bias": TensorSpec((1280,), "F32")}
    many = {name: TensorSpec(tensor.shape, "F8_E4M3" if name.startswith("output") else "BF16") for name, tensor in half.tensors.items()}

    assert identify(Header(name="few", tensors=few)).summary.endswith(", float16")
    assert identify(Header(name="many", tensors=many)).summary.endswith(", bfloat16 and float8_e4m3fn")


def test_a_written_file_is_read_back_as_it_was(tmp_path: Path) -> None:
    """A sparse file of 1.6 GiB takes no more than its header, and says the same as the header that it was written from."""
    header = whole(format="pt")
    path = write_checkpoint(tmp_path / "sd15.safetensors", header)
    size = path.stat().st_size
    with path.open("rb") as file:
        length = header_length(file.read(PREFIX_BYTES), what=header.name, file_bytes=size)
        read = parse_header(file.read(length), what=header.name, file_bytes=size)

    assert size == header.bytes + length + PREFIX_BYTES > 1.6 * 2**30
    assert path.stat().st_blocks * 512 < 2**20
    assert identify(read) == identify(header)


def shown(checkpoint: Checkpoint, width: int = 80) -> str:
    """Return what a terminal shows."""
    return render_table(checkpoint_table(checkpoint), Screen(width=width))[0]


def test_the_view_starts_with_the_summary_and_fits_80_columns() -> None:
    """Summary, size, class, family, models; a row for each part; evidence and what is assumed below."""
    text = shown(identify(whole()))
    lines = text.splitlines()

    assert lines[0].startswith("some.safetensors: a whole Stable Diffusion 1 checkpoint")
    assert max(map(len, lines)) <= 80
    assert "catalog: sd15, sd14, sd-image-variations" in lines
    assert text.index("text encoder  ") < text.index("evidence:") < text.index("not in the header (assumed):")


@pytest.mark.parametrize("stem", ["aNameWithoutAnyMark" * 6, "checkpoints/non-ema_model.fp16-" * 4, "short"])
def test_the_rows_of_a_folder_fit_80_columns(stem: str) -> None:
    """Whatever the files are called, and with the longest contents and families: no letter is lost."""
    found = structs.replace(identify(whole()), name=f"{stem}.safetensors", content="control_lora", family="Stable Video Diffusion")
    text = render_table(
        checkpoints_table([found, found], {stem: "not a safetensors file: its header would have 18446744073709551615 bytes"}),
        Screen(width=80),
    )[0]

    assert max(map(len, text.splitlines())) <= 80
    assert f"{stem}.safetensors" in "".join(line.partition("  ")[0] for line in text.splitlines())


def test_control_characters_of_a_file_are_shown_and_not_obeyed() -> None:
    """Names, prefixes and metadata come from whoever wrote the file."""
    hostile = "\x1b[2J.lora_down.weight"
    header = Header(
        name="\x1b]0;x", tensors={hostile: TensorSpec((4, 768), "F\x1b6")}, metadata={"ss_base_model_version": "\x1b[31m", "\x07": "\x9b1m"}
    )

    assert not set(shown(identify(header))) & set("\x1b\x07\x9b")


SIDES = st.lists(st.sampled_from([0, 1, 3, 4, 64, 320, 768, 2048]), max_size=5).map(tuple)
WORDS = st.sampled_from(
    [name for shapes in FILES.values() for name in shapes]
    + list(original_unet(ORIGINALS["sdxl-refiner"]))[::40]
    + ["conv_in.weight", "conv_out.weight", "down_blocks.0.resnets.0.conv1.weight", "up_blocks.0.resnets.0.conv1.weight", "", ".", "a..b"]
)


@settings(max_examples=100, deadline=None)
@given(st.dictionaries(st.one_of(WORDS, st.text(max_size=12)), SIDES, max_size=12))
def test_no_header_is_too_odd_to_be_answered(shapes: Shapes) -> None:
    """Any names with any shapes end as some content, whose parts hold every tensor, and which can be shown."""
    found = identify(header_of(shapes))

    assert sum(part.tensors for part in found.parts) == found.tensors == len(shapes)
    assert shown(found)


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_no_damaged_unet_is_too_odd_to_be_answered(data: st.DataObject) -> None:
    """Tensors of a real UNet that are gone, cut or renamed leave it a UNet, with a config or a reason why there is none."""
    shapes = original_unet(replace(ORIGINALS["sdxl"], model_channels=32, depths=(0, 1, 2), middle_depth=2))
    names = data.draw(st.lists(st.sampled_from(sorted(shapes)), min_size=1, max_size=6, unique=True))
    for name in names:
        shape = shapes.pop(name)
        match data.draw(st.sampled_from(["gone", "cut", "renamed"])):
            case "cut":
                shapes[name] = data.draw(SIDES)
            case "renamed":
                shapes[data.draw(st.sampled_from([f"{name}.x", name[3:], name.replace("0", "9")]))] = shape
    found = identify(header_of(shapes))

    assert found.content in ("unet", "unknown")
    assert found.content == "unknown" or found.config is not None or found.untold


@pytest.mark.parametrize(
    ("shapes", "family"),
    [
        ({"double_blocks.0.img_attn.qkv.weight": (9216, 3072), "single_blocks.0.linear1.weight": (21504, 3072)}, "FLUX.1"),
        ({"joint_blocks.0.x_block.attn.qkv.weight": (4608, 1536)}, "Stable Diffusion 3"),
        ({"double_blocks.0.img_attn_qkv.weight": (12, 12)}, None),
    ],
)
def test_a_part_of_a_transformer_has_its_family_if_its_layers_show_it(shapes: Shapes, family: str | None) -> None:
    """Names alone are of several families; with the number of inputs they are of one."""
    found = identify(header_of(shapes))

    assert (found.content, found.family) == ("transformer", family)


def test_the_names_of_embeddings_have_no_prefix() -> None:
    """What clip_l and clip_g have in common is not one; the names of modules have one."""
    for tensors, prefixes in (
        ({"emb_params": (8, 768)}, [""]),
        ({"clip_l": (3, 768), "clip_g": (3, 1280)}, [""]),
        (
            {"image_proj.proj.weight": (3072, 1024), "ip_adapter.1.to_k_ip.weight": (320, 768)},
            ["image_proj.proj.", "ip_adapter.1.to_k_ip."],
        ),
    ):
        assert [part.prefix for part in identify(header_of(tensors)).parts] == prefixes
