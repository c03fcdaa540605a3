"""LoRAs and their relatives: what PEFT, diffusers and LyCORIS write is what is identified, and fits the UNet that it was written for."""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from time import process_time
from typing import Any

import msgspec
import pytest
import torch
import yaml
from diffusers.loaders.lora_conversion_utils import _convert_non_diffusers_lora_to_diffusers
from diffusers.utils.state_dict_utils import convert_state_dict_to_kohya
from peft import (
    AdaLoraConfig,
    BOFTConfig,
    IA3Config,
    LoHaConfig,
    LoKrConfig,
    LoraConfig,
    OFTConfig,
    get_peft_model_state_dict,
    inject_adapter_in_model,
    set_peft_model_state_dict,
)
from safetensors.torch import save_file

from tests.checkpoints import ORIGINALS, Shapes, catalog_shapes, header_of, original_unet
from tests.schema import assert_fits_the_schema
from tests.tiny import CONDITION, traced
from unetinspect.checking.adapter_weights import compare_lora
from unetinspect.checking.weights import tensor_shapes
from unetinspect.checkpoint.identify import identify
from unetinspect.checkpoint.safetensors_header import Header
from unetinspect.record import Check, Checkpoint, Finding, Lora, SizeCheck, WeightsCheck
from unetinspect.run.build import build_unet
from unetinspect.run.resolve import resolve_config
from unetinspect.source.local import weights_at
from unetinspect.source.read import read_weights
from unetinspect.views.checks import check_table, check_verdict, checkpoint_table
from unetinspect.views.render import Screen, render_table

LORA_ENDING = re.compile(r"\.(?:lora_|hada_|lokr_|ia3_|oft_|boft_)")
PEFT_FILE = "adapter_model.safetensors"
TO_K = "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k"
ATTENTION = ["to_q", "to_k", "to_v", "to_out.0"]
LYCORIS: dict[str, dict[str, Shapes]] = yaml.safe_load(Path(__file__).with_name("lycoris_layers.yaml").read_text(encoding="utf-8"))
# Where LyCORIS wrote these layers: linear and a convolution.
LAYERS = {"linear": (TO_K, (320, 768)), "convolution": ("down_blocks.1.resnets.0.conv1", (640, 320, 3, 3))}
FORMS = {"boft": "BOFT", "diag-oft": "OFT", "full": "full", "glora": "GLoRA", "ia3": "IA3", "locon": "LoRA", "loha": "LoHa", "lokr": "LoKr"}


def lora_of(found: Checkpoint) -> Lora:
    """Return the LoRA of a checkpoint, which must be one and fit the schema."""
    assert found.content == "lora"
    assert found.lora is not None
    assert_fits_the_schema(json.loads(msgspec.json.encode(found)))
    return found.lora


def weights_of(shapes: Mapping[str, tuple[int, ...]]) -> Shapes:
    """Return the weights of a UNet's linear layers and convolutions, by module."""
    return {name.removesuffix(".weight"): shape for name, shape in shapes.items() if name.endswith(".weight") and len(shape) in (2, 4)}


def low_rank(weights: Shapes, write: Callable[[str, str], str], rank: int = 4) -> Shapes:
    """Return a LoRA's matrices for these weights; `write` names one, "down" or "up"."""
    down = {write(name, "down"): (rank, *shape[1:]) for name, shape in weights.items()}
    return down | {write(name, "up"): (shape[0], rank, *(1 for _ in shape[2:])) for name, shape in weights.items()}


def kohya(name: str, matrix: str) -> str:
    """Write a key as sd-scripts does."""
    return f"lora_unet_{name.replace('.', '_')}.lora_{matrix}.weight"


def peft(name: str, matrix: str) -> str:
    """Write a key as diffusers saves it today."""
    return f"unet.{name}.lora_{'A' if matrix == 'down' else 'B'}.weight"


def against(shapes: Mapping[str, tuple[int, ...]], header: Header) -> tuple[WeightsCheck, tuple[Finding, ...]]:
    """Compare a LoRA with a UNet of these tensors; the counts add up, and there are findings exactly where it does not fit."""
    found = identify(header)
    check, findings = compare_lora("it", dict(shapes), header, found, lora_of(found))

    assert check.matched + check.missing + check.unexpected + check.mismatched == check.tensors
    assert bool(findings) == (check.matched != check.tensors or not check.tensors)
    assert sum(finding.count or 0 for finding in findings) == check.tensors - check.matched
    return check, findings


@pytest.mark.parametrize(
    ("model", "write"),
    [("sd15", kohya), ("sd21", peft), ("sdxl", kohya), ("kandinsky-2-2", peft), ("if-i-xl", kohya), ("svd-xt", peft)],
)
def test_every_layer_of_a_model_is_found_again(model: str, write: Callable[[str, str], str]) -> None:
    """All weights of a model of each structure, in a trainer's names: it fits this model to the last layer, and is counted once."""
    shapes = catalog_shapes(model)
    weights = weights_of(shapes)
    header = header_of(low_rank(weights, write))
    found = identify(header)
    lora = lora_of(found)

    assert model in found.models
    assert lora.layers == sum(lora.types.values()) == sum(block.layers for block in lora.blocks) == len(weights)
    assert {group.ranks for group in lora.groups} == {(4,)}
    assert against(shapes, header)[0].matched == len(weights)


@pytest.mark.parametrize("model", ["sd15", "sdxl"])
def test_names_of_the_original_layout_are_the_same_layers(model: str) -> None:
    """As sd-scripts writes SDXL's: the blocks are those of the same LoRA in diffusers' names."""
    original = header_of(low_rank(weights_of(original_unet(ORIGINALS[model])), kohya))
    renamed = header_of(low_rank(weights_of(catalog_shapes(model)), kohya))
    one, other = (lora_of(identify(header)) for header in (original, renamed))

    assert (one.blocks, one.types, one.layers) == (other.blocks, other.types, other.layers)
    assert {block.block for block in one.blocks if block.path.startswith("mid_block")} == {"M00"}


def test_blocks_have_the_numbers_of_merge_block_weighted() -> None:
    """SD 1 has transformers in IN01, 02, 04, 05, 07, 08, M00 and OUT03 to OUT11: 16 with 10 attention and feed-forward layers each."""
    weights = {name: shape for name, shape in weights_of(catalog_shapes("sd15")).items() if "attn" in name or ".ff." in name}
    lora = lora_of(identify(header_of(low_rank(weights, kohya))))
    numbers = ["IN01", "IN02", "IN04", "IN05", "IN07", "IN08", "M00", *(f"OUT{number:02}" for number in range(3, 12))]

    assert [(block.block, block.layers) for block in lora.blocks] == [(number, 10) for number in numbers]
    assert lora.blocks[2].path == "down_blocks.1.attentions.0"
    assert lora.types == {"self-attention": 64, "cross-attention": 64, "feed-forward": 32}


def test_self_attention_alone_fits_models_of_several_families() -> None:
    """No width of the text shows the family: all that it fits are listed, and both families are named."""
    weights = {name: shape for name, shape in weights_of(catalog_shapes("sd21")).items() if "attn1" in name}
    found = identify(header_of(low_rank(weights, peft)))

    assert {"sd15", "sd21"} <= set(found.models)
    assert found.family is None
    assert "base model: Stable Diffusion 1 or Stable Diffusion 2" in found.untold[0]
    of_sdxl = {name: shape for name, shape in weights_of(catalog_shapes("sdxl")).items() if "attn1" in name}
    assert identify(header_of(low_rank(of_sdxl, peft))).family == "Stable Diffusion XL"


@pytest.mark.parametrize(("width", "family"), [(768, "Stable Diffusion 1"), (1024, "Stable Diffusion 2"), (640, None)])
def test_the_text_encoder_decides_what_the_unet_leaves_open(width: int, family: str | None) -> None:
    """Alone under the name of the only encoder, or beside layers that fit several; not alone under a name that is also SDXL's."""
    encoder = {"lora_te_text_model_encoder_layers_0_self_attn_k_proj.lora_down.weight": (4, width)}
    unet = {name: shape for name, shape in weights_of(catalog_shapes("sd21")).items() if "attn1" in name}

    assert identify(header_of(encoder)).family == family
    assert identify(header_of({**low_rank(unet, kohya), **encoder})).family == family
    assert identify(header_of({name.replace("te_", "te1_"): shape for name, shape in encoder.items()})).family is None


@pytest.mark.parametrize("middle", ["processor.to_{}_lora.{}", "to_{}.lora_{}"])
def test_motion_loras_in_the_names_of_animatediff_fit_its_modules(middle: str) -> None:
    """`attention_blocks` are attn1 and attn2; layers of a mid block are for the version that has motion modules there."""
    shapes = catalog_shapes("animatediff-sd15-v3")
    weights = {name: shape for name, shape in weights_of(shapes).items() if "motion_modules" in name and ".attn" in name}

    def write(name: str, matrix: str) -> str:
        module, _, layer = name.removesuffix(".0").rpartition(".to_")
        module = module.replace(".transformer_blocks", ".temporal_transformer.transformer_blocks")
        module = module.replace("attn1", "attention_blocks.0").replace("attn2", "attention_blocks.1")
        return f"{module}.{middle.format(layer, matrix)}.weight"

    header = header_of(low_rank(weights, write))
    found = identify(header)
    assert (found.summary, found.models) == ("a motion LoRA (rank 4) for AnimateDiff, float16", ("animatediff-sd15-v3",))
    assert against(shapes, header)[0].matched == len(weights) == 160

    middle_block = {f"mid_block.motion_modules.0.transformer_blocks.0.attn{number}.to_q": (1280, 1280) for number in (1, 2)}
    _, (finding,) = against(shapes, header_of(low_rank({**weights, **middle_block}, write)))
    assert (finding.count, finding.advice) == (
        2,
        "the LoRA is for a motion module with a mid block (AnimateDiff v2); it has none there",
    )
    _, (finding,) = against(catalog_shapes("sd15"), header_of(low_rank({**weights, **middle_block}, write)))
    assert "from_unet2d" in (finding.advice or "")


TUNERS = {
    "LoRA": LoraConfig(r=4, target_modules=[*ATTENTION, "proj_in", "conv1", "ff.net.2"]),
    "DoRA": LoraConfig(r=4, use_dora=True, target_modules=ATTENTION),
    "AdaLoRA": AdaLoraConfig(target_modules=ATTENTION, total_step=9),
    "LoHa": LoHaConfig(r=3, target_modules=[*ATTENTION, "conv1"]),
    "LoHa, tucker": LoHaConfig(r=3, target_modules=["conv1"], use_effective_conv2d=True),
    "LoKr": LoKrConfig(r=3, target_modules=[*ATTENTION, "conv1"]),
    "LoKr, tucker": LoKrConfig(r=2, target_modules=[*ATTENTION, "conv1"], use_effective_conv2d=True, decompose_both=True),
    "IA3": IA3Config(target_modules=["to_k", "to_v", "ff.net.2"], feedforward_modules=["ff.net.2"]),
    "OFT": OFTConfig(r=0, oft_block_size=8, target_modules=ATTENTION),
    "BOFT": BOFTConfig(boft_block_size=8, target_modules=["to_q", "to_v"]),
}


def saved(tuner: Any) -> tuple[Shapes, dict[str, torch.Tensor], int]:
    """Return the small UNet's tensors, what PEFT saves of a tuner in it, and how many layers that changes."""
    unet = build_unet(resolve_config(CONDITION), device=torch.device("cpu"), dtype=torch.float32, name="it")
    shapes = tensor_shapes(unet)
    inject_adapter_in_model(tuner, unet)
    layers = sum(hasattr(module, "base_layer") for module in unet.modules())
    return shapes, get_peft_model_state_dict(unet), layers


@pytest.mark.filterwarnings("ignore:Failed to load the CUDA extension", "ignore:Setting boft_n_butterfly_factor")
@pytest.mark.parametrize("name", TUNERS)
def test_what_peft_saves_fits_the_unet_that_it_was_trained_on(name: str) -> None:
    """Of every form that PEFT has in common with trainers of images: each layer, by the shape that its tensors make; no other UNet."""
    shapes, tensors, layers = saved(TUNERS[name])
    header = header_of({key: tuple(tensor.shape) for key, tensor in tensors.items()})
    lora = lora_of(identify(header))
    wider = {key: (*(side + 1009 for side in shape[:2]), *shape[2:]) for key, shape in shapes.items()}

    assert (lora.format, lora.layers) == ("peft", layers)
    assert set(lora.forms) == {"LoRA" if name == "DoRA" else name.partition(",")[0]}
    assert lora.dora == (name == "DoRA")
    assert against(shapes, header)[0].matched == layers
    assert against(wider, header)[0].matched == 0


def test_what_diffusers_converts_for_kohya_is_the_same_lora(tmp_path: Path) -> None:
    """The names without dots are those of the UNet's modules; alphas are read from the file, whatever their dtype."""
    shapes, tensors, layers = saved(TUNERS["LoRA"])
    converted = convert_state_dict_to_kohya({f"unet.{key}": tensor for key, tensor in tensors.items()})
    for dtype in (torch.float32, torch.float16, torch.bfloat16, torch.int32):
        path = tmp_path / f"{dtype}.safetensors"
        save_file(
            {key: tensor.to(dtype).contiguous() if tensor.ndim == 0 else tensor.contiguous() for key, tensor in converted.items()}, path
        )
        weights = weights_at(path)
        check, findings = compare_lora("it", shapes, weights.header, weights.checkpoint, lora_of(weights.checkpoint))

        assert (check.matched, findings) == (layers, ())
        assert (lora_of(weights.checkpoint).rank, lora_of(weights.checkpoint).alpha) == (4, 4.0)
        assert check.summary == f"LoCon, rank 4, alpha 4: {layers} of {layers} UNet layers match it by name and shape"


@pytest.mark.parametrize("name", LYCORIS)
def test_what_lycoris_writes_makes_the_weights_of_its_layers(name: str) -> None:
    """A linear layer and a convolution of SD 1.5 of each form fit it, and no layer one wider."""
    tensors = {
        f"lycoris_{LAYERS[kind][0].replace('.', '_')}.{matrix}": tuple(shape)
        for kind, layer in LYCORIS[name].items()
        for matrix, shape in layer.items()
    }
    lora = lora_of(identify(header_of(tensors)))
    exact = {f"{path}.weight": shape for path, shape in LAYERS.values()}
    wider = {key: (shape[0] + 1, shape[1] + 1, *shape[2:]) for key, shape in exact.items()}

    assert lora.forms == (FORMS[name.partition("_")[0]],)
    assert (lora.format, [group.kind for group in lora.groups]) == ("lycoris", ["linear", "convolution"])
    assert against(exact, header_of(tensors))[0].matched == 2
    assert against(wider, header_of(tensors))[0].matched == 0
    if name.startswith("locon"):
        assert [group.ranks for group in lora.groups] == [(16,), (8,)]


def test_ranks_and_alphas_of_groups_are_told_apart(tmp_path: Path) -> None:
    """Linear layers, convolutions and text encoders with other numbers; the summary has them all, the record by group."""
    numbers = {"lora_unet_mid_block_attentions_0_proj_in": 16, "lora_unet_mid_block_resnets_0_conv1": 8, "lora_te1_a": 4, "lora_te2_b": 4}
    kernel = {"lora_unet_mid_block_attentions_0_proj_in": (1, 1), "lora_unet_mid_block_resnets_0_conv1": (3, 3)}
    tensors = {}
    for layer, rank in numbers.items():
        side = 1280 if layer in kernel else 768
        tensors[f"{layer}.lora_down.weight"] = torch.zeros(rank, side, *kernel.get(layer, ()))
        tensors[f"{layer}.lora_up.weight"] = torch.zeros(side, rank, *(1 for _ in kernel.get(layer, ())))
        tensors[f"{layer}.alpha"] = torch.tensor(rank / 2)
    save_file(tensors, tmp_path / "lora.safetensors")
    found = weights_at(tmp_path / "lora.safetensors").checkpoint
    lora = lora_of(found)

    assert "rank 16, alpha 8; convolutions rank 8, alpha 4; text encoder rank 4, alpha 2; text encoder 2 rank 4, alpha 2" in found.summary
    assert [(group.part, group.kind, group.ranks, group.alphas) for group in lora.groups] == [
        ("unet", "linear", (16,), (8.0,)),
        ("unet", "convolution", (8,), (4.0,)),
        ("text_encoder", "linear", (4,), (2.0,)),
        ("text_encoder_2", "linear", (4,), (2.0,)),
    ]
    assert lora.text_encoders == ("text_encoder", "text_encoder_2")


def test_metadata_has_the_alpha_where_no_tensor_does() -> None:
    """PEFT's, with or without the prefix of the model, and kohya's; damaged metadata is none."""
    tensors = low_rank({TO_K: (320, 768)}, peft)
    for metadata, alpha in (
        ({"lora_adapter_metadata": json.dumps({"unet.lora_alpha": 2, "unet.r": 4})}, 2.0),
        ({"lora_adapter_metadata": json.dumps({"lora_alpha": 3})}, 3.0),
        ({"ss_network_alpha": "1.5"}, 1.5),
        ({"lora_adapter_metadata": "{"}, None),
        ({"ss_network_alpha": "none"}, None),
    ):
        assert lora_of(identify(header_of(tensors, metadata=metadata))).alpha == alpha


@pytest.mark.parametrize(
    ("config", "alpha", "note"),
    [
        ('{"lora_alpha": 32, "r": 4}', 32.0, "alpha read from the adapter_config.json"),
        ('{"lora_alpha": 32, "alpha_pattern": {"to_k": 8}}', None, ""),
        ('{"lora_alpha": "32"}', None, ""),
        ("{", None, "alpha unknown: "),
        (None, None, ""),
    ],
)
def test_the_alpha_of_a_peft_folder_is_in_its_config(config: str | None, alpha: float | None, note: str, tmp_path: Path) -> None:
    """Read as plain JSON beside PEFT's own file name; the sentence about it is for PEFT's names only."""
    layer = f"base_model.model.{TO_K}"
    save_file({f"{layer}.lora_A.weight": torch.zeros(4, 768), f"{layer}.lora_B.weight": torch.zeros(320, 4)}, tmp_path / PEFT_FILE)
    if config is not None:
        (tmp_path / "adapter_config.json").write_text(config)
    found = read_weights(str(tmp_path))

    assert lora_of(found.checkpoint).alpha == alpha
    assert "".join(found.notes).startswith(note)
    assert any("adapter_config.json" in line for line in found.checkpoint.untold) == (alpha is None)
    in_diffusers = identify(header_of(low_rank({TO_K: (320, 768)}, peft)))
    assert "alpha: not in the file; loaders take the rank" in in_diffusers.untold


def test_an_alpha_of_a_damaged_file_is_left_out(tmp_path: Path) -> None:
    """0 and what is no number are not alphas; a file that became shorter has none."""
    entries = {f"x.lora_down.{name}": {"dtype": "F32", "shape": [1, 1], "data_offsets": [0, 4]} for name in ("weight",)}
    entries |= {"x.alpha": {"dtype": "F32", "shape": [], "data_offsets": [4, 8]}}
    raw = json.dumps(entries).encode()
    for value, expected in ((0.0, {}), (float("nan"), {}), (2.0, {"x.alpha": 2.0})):
        path = tmp_path / "it.safetensors"
        path.write_bytes(struct.pack("<Q", len(raw)) + raw + struct.pack("<ff", 1.0, value))

        assert weights_at(path).header.alphas == expected


def test_a_lora_of_another_family_is_given_away_by_the_width_of_the_text() -> None:
    """First the width, with both families and the models that it fits; then what has no place, by diffusers' names."""
    header = header_of(low_rank(weights_of(original_unet(ORIGINALS["sdxl"])), kohya))
    check, findings = against(catalog_shapes("sd15"), header)
    first = findings[0]

    assert "text embeddings that" not in first.what
    assert first.what.endswith("read 2048-dim (Stable Diffusion XL) text embeddings, expected 768-dim (Stable Diffusion 1)")
    assert first.examples[0].original_name == "lora_unet_input_blocks_4_1_transformer_blocks_0_attn2_to_k"
    assert (first.examples[0].found, first.examples[0].expected) == ((640, 2048), (640, 768))
    assert first.advice is not None
    assert "it fits sdxl" in first.advice
    assert (check.fits[0], check.family) == ("sdxl", "Stable Diffusion XL")
    assert [finding.follows for finding in findings] == [False, *[True] * (len(findings) - 1)]
    sizes = (SizeCheck(image_size=(512, 512), sample_size=(64, 64), runs=True, output_size=(64, 64)),)
    whole = Check(clean=False, findings=findings, sizes=sizes, weights=check)
    info = traced("sd15").model
    assert check_verdict("sd15", whole) == (
        f"1 problem: {check.name} fits sdxl (Stable Diffusion XL), not sd15; sd15 runs at 512x512 (sample 64x64)"
    )
    assert check_table(info, whole).above[-1] == (
        f"  {check.unexpected + check.mismatched - (first.count or 0)} more layers differ because of this (--explain lists them)"
    )
    assert any("transformer_blocks" in where for finding in findings if finding.kind == "unexpected" for where in finding.where)


def test_layers_of_text_encoders_are_not_compared() -> None:
    """They are counted and named; a LoRA that has no others changes no UNet, and one of a transformer fits none."""
    encoders = {
        f"lora_te{number}_text_model_fc1.lora_{matrix}.weight": shape
        for number in (1, 2)
        for matrix, shape in (("down", (4, 768)), ("up", (768, 4)))
    }
    check, _ = against(catalog_shapes("sd15"), header_of({**low_rank({TO_K: (320, 768)}, kohya), **encoders}))

    assert check.summary == (
        "LoRA, rank 4: 1 of 1 UNet layers match it by name and shape; 2 layers of text encoder and text encoder 2 not compared"
    )
    check, (finding,) = against(catalog_shapes("sd15"), header_of(encoders))
    assert (check.tensors, finding.what.partition(": ")[2]) == (0, "no layer of a UNet")
    assert check.summary == "LoRA, rank 4: no UNet layers; 2 layers of text encoder and text encoder 2 not compared"
    check, (finding,) = against(
        catalog_shapes("sd15"), header_of({"transformer.single_transformer_blocks.0.attn.to_q.lora_A.weight": (4, 3072)})
    )
    assert finding.what == "a LoRA (rank 4) of a diffusion transformer (FLUX.1), not of a UNet, float16"
    assert check.summary == "LoRA, rank 4: 0 of 1 layers match it by name and shape"


@pytest.mark.parametrize("write", [kohya, peft])
def test_a_layer_whose_matrices_have_different_ranks_fits_nothing(write: Callable[[str, str], str]) -> None:
    """The product of such matrices does not exist: both ranks are named, under the file's names."""
    check, (finding,) = against(catalog_shapes("sd15"), header_of({write(TO_K, "down"): (4, 768), write(TO_K, "up"): (320, 8)}))
    down, up = (re.search(r"lora_\w+(?=\.weight)", write(TO_K, matrix)) for matrix in ("down", "up"))

    assert down
    assert up
    assert (check.mismatched, finding.kind) == (1, "mismatched")
    assert finding.what == f"1 layer has matrices of different ranks: {down[0]} 4, {up[0]} 8"
    assert (finding.examples[0].name, finding.examples[0].expected) == (f"{TO_K}.weight", (320, 768))


RANKS = {
    "hada_w1_a hada_w1_b": {"hada_w1_a": (320, 4), "hada_w1_b": (8, 768), "hada_w2_a": (320, 4), "hada_w2_b": (4, 768)},
    "hada_w2_a hada_w2_b": {"hada_w1_a": (320, 4), "hada_w1_b": (4, 768), "hada_w2_a": (320, 4), "hada_w2_b": (8, 768)},
    "lokr_w2_a lokr_w2_b": {"lokr_w1": (8, 8), "lokr_w2_a": (40, 4), "lokr_w2_b": (8, 96)},
    "b1 b2": {"a1.weight": (768, 4), "a2.weight": (4, 768), "b1.weight": (320, 4), "b2.weight": (8, 768)},
}


@pytest.mark.parametrize("pair", RANKS)
def test_ranks_of_other_forms_are_compared_too(pair: str) -> None:
    """Each pair of matrices that is multiplied."""
    header = header_of({f"lycoris_{TO_K.replace('.', '_')}.{name}": shape for name, shape in RANKS[pair].items()})
    check, (finding,) = against(catalog_shapes("sd15"), header)
    first, second = pair.split()

    assert (check.matched, finding.what) == (0, f"1 layer has matrices of different ranks: {second} 8, {first} 4")


def two_layers(**changes: bool) -> dict[str, torch.Tensor]:
    """Return a LoRA of two linear layers as kohya writes it; `dora`: with magnitudes."""
    tensors: dict[str, torch.Tensor] = {}
    for name in ("to_k", "to_v"):
        layer = f"lora_unet_{TO_K.replace('.', '_')[:-4]}{name}"
        tensors |= {f"{layer}.lora_down.weight": torch.zeros(4, 768), f"{layer}.lora_up.weight": torch.zeros(320, 4)}
        tensors |= {f"{layer}.alpha": torch.tensor(4.0)}
        tensors |= {f"{layer}.dora_scale": torch.zeros(320, 1)} if changes.get("dora") else {}
    return tensors


KINDS = ("lora_down.weight", "lora_up.weight", "alpha", "dora_scale")


@pytest.mark.parametrize("dora", [False, True])
@pytest.mark.parametrize("lost", [(), *((kind,) for kind in KINDS), KINDS[:2], (*KINDS[:2], "alpha"), (*KINDS[:2], "dora_scale"), KINDS])
def test_what_diffusers_refuses_to_convert_is_a_finding(lost: tuple[str, ...], dora: bool) -> None:
    """Of one of two layers some tensors are lost: the converter raises exactly where there is a finding."""
    tensors = {name: tensor for name, tensor in two_layers(dora=dora).items() if not ("to_v." in name and name.endswith(lost or ("-",)))}
    header = header_of({name: tuple(tensor.shape) for name, tensor in tensors.items()})
    check, findings = against(catalog_shapes("sd15"), header)
    lora = lora_of(identify(header))
    try:
        _convert_non_diffusers_lora_to_diffusers(dict(tensors))
    except (ValueError, KeyError):
        refused = True
    else:
        refused = False

    assert (bool(findings), bool(lora.faults), lora.forms) == (refused, refused, ("LoRA",))
    assert check.missing == refused
    if refused:
        assert findings[0].kind == "missing"
        assert findings[0].examples[0].original_name == f"lora_unet_{TO_K.replace('.', '_')[:-1]}v"
        assert identify(header).models == ()


@pytest.mark.parametrize(("prefix", "known", "write"), [("my_unet_", "lora_unet_", kohya), ("model.my_net.", "unet.", peft)])
def test_an_unknown_prefix_is_one_finding(prefix: str, known: str, write: Callable[[str, str], str]) -> None:
    """With what to rename it to, and how many layers match then; diffusers takes none of the names as they are."""
    weights = {name: shape for name, shape in weights_of(catalog_shapes("sd15")).items() if "attentions" in name}
    good = low_rank(weights, write)
    tensors = {name.replace(known, prefix): shape for name, shape in good.items()}
    check, (finding,) = against(catalog_shapes("sd15"), header_of(tensors))
    found = identify(header_of(tensors))
    unknown = prefix.removeprefix("model.")

    assert (check.matched, check.unexpected, finding.kind) == (0, len(weights), "unexpected")
    assert finding.what == f"unknown prefix {unknown!r} on {len(weights)} layers"
    assert finding.advice == f"rename it to {known!r}; then {len(weights)} of {len(weights)} match it"
    assert lora_of(found).faults == (f"{finding.what}: rename it to {known!r}",)
    assert (found.family, found.models, lora_of(found).blocks) == ("Stable Diffusion 1", (), lora_of(identify(header_of(good))).blocks)
    assert against(catalog_shapes("sd15"), header_of(good))[0].matched == len(weights)
    if write is kohya:
        with pytest.raises(ValueError, match="not been correctly renamed"):
            _convert_non_diffusers_lora_to_diffusers({name: torch.zeros(shape) for name, shape in tensors.items()})


def test_an_unknown_prefix_of_another_family_does_not_hide_it() -> None:
    """The prefix and the width of the text are two problems, and what follows from the width still does."""
    weights = {name: shape for name, shape in weights_of(catalog_shapes("sdxl")).items() if "attentions" in name}
    tensors = {name.replace("lora_unet_", "my_"): shape for name, shape in low_rank(weights, kohya).items()}
    _, findings = against(catalog_shapes("sd15"), header_of(tensors))

    assert [finding.follows for finding in findings[:2]] == [False, False]
    assert all(finding.follows for finding in findings[2:])
    assert findings[0].advice == f"rename it to 'lora_unet_'; then {findings[0].count} of {len(weights)} match it"
    assert findings[1].where == ("cross_attention_dim",)


def test_layers_with_half_of_their_matrices_are_counted_by_what_is_missing() -> None:
    """Also those of text encoders, which are not compared with the UNet; the sentence is the same in `identify`."""
    weights = {name: shape for name, shape in weights_of(catalog_shapes("sd15")).items() if ".attn2.to_" in name}
    tensors = low_rank(weights, peft)
    downs, ups = (sorted(name for name in tensors if f"lora_{matrix}" in name) for matrix in "AB")
    for name in (*downs[:3], ups[9]):
        del tensors[name]
    encoder = {"text_encoder.text_model.encoder.layers.0.mlp.fc1.lora_A.weight": (4, 768)}
    check, (finding,) = against(catalog_shapes("sd15"), header_of(tensors))
    found = identify(header_of({**tensors, **encoder}))
    what = "layers have only one of their two matrices: lora_A is missing from 3 and lora_B is missing from"

    assert (check.missing, check.matched, finding.what) == (4, len(weights) - 4, f"4 {what} 1")
    assert lora_of(found).faults == (f"5 {what} 2 (first: {ups[9].removesuffix('.lora_B.weight')})",)
    text = render_table(checkpoint_table(found), Screen(width=80))[0]
    assert "problem: 5 layers have only one of their two matrices" in text


@pytest.mark.filterwarnings("ignore:Failed to load the CUDA extension", "ignore:Setting boft_n_butterfly_factor")
@pytest.mark.parametrize("name", TUNERS)
def test_what_peft_misses_is_a_finding(name: str) -> None:
    """Of one layer each tensor is deleted in turn: where PEFT reports it missing on loading, the layer does not match."""
    unet = build_unet(resolve_config(CONDITION), device=torch.device("cpu"), dtype=torch.float32, name="it")
    shapes = tensor_shapes(unet)
    inject_adapter_in_model(TUNERS[name], unet)
    tensors = get_peft_model_state_dict(unet)
    layer = next(iter(tensors)).rpartition(".attn")[0]
    own = [key for key in tensors if key.startswith(layer)] if layer else list(tensors)[:6]
    for lost in own:
        rest = {key: tensor for key, tensor in tensors.items() if key != lost}
        stem = lost.removesuffix(".weight")
        loaded: Any = set_peft_model_state_dict(unet, dict(rest))
        assert any(key.startswith(stem) for key in loaded.missing_keys)
        module, of_module = LORA_ENDING.split(lost)[0], [key for key in rest if key.startswith(LORA_ENDING.split(lost)[0] + ".")]
        check, findings = against(shapes, header_of({key: tuple(tensor.shape) for key, tensor in rest.items()}))
        if of_module:  # or else the layer is not in the file at all
            assert check.matched == check.tensors - 1, lost
            assert module in findings[0].examples[0].name


@pytest.mark.parametrize("name", LYCORIS)
def test_a_tensor_that_lycoris_needs_is_missed(name: str) -> None:
    """Without any of its matrices, a layer does not match; without alpha or the bias of a whole difference it does."""
    for kind, layer in LYCORIS[name].items():
        path, shape = LAYERS[kind]
        for lost in layer:
            rest = {f"lycoris_{path.replace('.', '_')}.{matrix}": tuple(own) for matrix, own in layer.items() if matrix != lost}
            if set(layer) - {lost, "alpha"}:
                is_optional = lost in ("alpha", "diff_b") or (lost == "diff" and "diff_b" in layer)
                check, _ = against({f"{path}.weight": shape}, header_of(rest))
                assert check.matched == is_optional, lost


TRANSFORMERS = {
    "diffusion_model.blocks.0.self_attn.q": (5120, "Wan"),
    "lora_unet_double_blocks_0_img_attn_proj": (3072, None),  # HunyuanVideo's too, where dots are underscores
    "diffusion_model.double_blocks.0.img_attn.proj": (3072, "FLUX.1"),
    "lora_unet_double_blocks_0_img_mlp_0": (3072, "FLUX.1"),
    "lora_unet_single_blocks_0_modulation_lin": (3072, "FLUX.1"),
    "transformer.single_transformer_blocks.37.attn.to_q": (3072, "FLUX.1"),
    "transformer.single_transformer_blocks.38.attn.to_q": (3072, "HunyuanVideo"),
    "diffusion_model.double_blocks.0.img_attn_proj": (3072, None),
    "diffusion_model.double_blocks.19.img_attn_proj": (3072, "HunyuanVideo"),
    "diffusion_model.double_blocks.0.txt_mlp.fc1": (3072, "HunyuanVideo"),
    "lora_unet_single_blocks_0_modulation_linear": (3072, "HunyuanVideo"),
    "lora_unet_single_blocks_39_linear1": (3072, "HunyuanVideo"),
    "lora_unet_joint_blocks_0_context_block_attn_proj": (1536, "Stable Diffusion 3"),
    "transformer.transformer_blocks.0.attn.add_k_proj": (1536, "Stable Diffusion 3"),
    "transformer.transformer_blocks.0.attn.to_q": (3072, None),  # Qwen-Image's and HunyuanVideo's too
    "transformer_blocks.0.img_mod.1": (3072, "Qwen-Image"),
    "diffusion_model.transformer_blocks.0.attn2.to_k": (2048, "LTX-Video"),
    "diffusion_model.layers.0.attention.to_q": (3840, "Z-Image"),
    "diffusion_model.blocks.0.self_attn.q_proj": (2048, None),  # Cosmos
    "transformer.transformer_blocks.0.img_mlp.net.2": (3072, "Qwen-Image"),
    "transformer.transformer_blocks.0.attn1.to_q": (1152, None),
}


@pytest.mark.parametrize("layer", TRANSFORMERS)
def test_loras_of_transformers_are_not_of_a_unet(layer: str) -> None:
    """With the family where the names show it."""
    width, family = TRANSFORMERS[layer]
    found = identify(header_of({f"{layer}.lora_A.weight": (4, width), f"{layer}.lora_B.weight": (width, 4)}))
    named = f" ({family})" if family else ""

    assert found.summary == f"a LoRA (rank 4) of a diffusion transformer{named}, not of a UNet, float16"
    assert (found.family, lora_of(found).blocks) == (family, ())


def test_all_names_decide_the_family_of_a_transformer() -> None:
    """Not the first that is also another's: the same attention layers, and one more that only one family has."""
    shared = {f"transformer_blocks.{place}.attn.to_q.lora_A.weight": (4, 3072) for place in range(9)}
    for more, family in (("transformer_blocks.8.img_mlp.net.2", "Qwen-Image"), ("single_transformer_blocks.8.attn.to_q", "FLUX.1")):
        assert identify(header_of({**shared, f"{more}.lora_A.weight": (4, 3072)})).family == family


def test_both_streams_of_xlabs_are_layers() -> None:
    """The number behind "lora" is the stream: image or text."""
    streams = [
        f"double_blocks.{block}.processor.{name}_lora{stream}" for block in range(2) for name in ("qkv", "proj") for stream in (1, 2)
    ]
    found = identify(
        header_of({f"{one}.{way}.weight": (4, 3072)[:: 1 if way == "down" else -1] for one in streams for way in ("down", "up")})
    )

    assert (lora_of(found).layers, found.family, len(found.parts)) == (8, "FLUX.1", 1)


@pytest.mark.parametrize(
    ("form", "tensors"),
    {"OFT": {"oft_blocks": (4, 320, 320)}, "LoKr": {"lokr_w1": (8, 8), "lokr_w2": (160, 160)}, "full": {"diff": (1280, 1280)}}.items(),
)
def test_an_alpha_without_a_rank_is_none(form: str, tensors: Shapes, tmp_path: Path) -> None:
    """It bounds the rotation, or is not used at all; and the evidence is a tensor of the form, not the alpha."""
    layer = "oft_unet_middle_block_1_transformer_blocks_9_attn1_to_q"
    save_file(
        {f"{layer}.alpha": torch.tensor(0.5), **{f"{layer}.{name}": torch.zeros(shape) for name, shape in tensors.items()}},
        tmp_path / "it.safetensors",
    )
    weights = weights_at(tmp_path / "it.safetensors")
    lora = lora_of(weights.checkpoint)

    assert weights.header.alphas == {f"{layer}.alpha": 0.5}
    assert (lora.format, lora.forms, lora.alpha, weights.checkpoint.models[0]) == ("kohya", (form,), None, "sdxl")
    assert f"{next(iter(tensors))}' is" in weights.checkpoint.evidence[0]


def test_norms_beside_a_lora_are_named_after_it() -> None:
    """Differences with one axis are those of norms; the summary has no gap where "LoRA" would be."""
    block = "diffusion_model.blocks.0."
    tensors = {f"{block}self_attn.q.lora_down.weight": (4, 64), f"{block}self_attn.q.lora_up.weight": (64, 4), f"{block}norm3.diff": (64,)}

    assert (
        identify(header_of(tensors)).summary == "a LoRA (LoRA and norms, rank 4) of a diffusion transformer (Wan), not of a UNet, float16"
    )


def test_a_lora_of_a_language_model_is_not_called_one_of_a_unet() -> None:
    """Nor is any file with a trainer's prefix unknown."""
    layer = "base_model.model.model.layers.0.self_attn.q_proj"
    found = identify(header_of({f"{layer}.lora_A.weight": (4, 64), f"{layer}.lora_B.weight": (64, 4)}))

    assert (found.summary, found.models) == ("a LoRA (rank 4) of an unknown model, float16", ())
    for prefix in ("lora_unet_", "lycoris_"):
        assert identify(header_of({f"{prefix}some_layer.some_matrix": (4, 4)})).content == "lora"


def test_a_lora_of_a_controlnet_says_so() -> None:
    """PEFT saves what is trained as a whole beside the matrices."""
    shapes = catalog_shapes("controlnet-sd15-canny")
    weights = {name: shape for name, shape in weights_of(shapes).items() if "attn" in name or name.startswith("controlnet_down_blocks")}
    whole = {f"base_model.model.{name}": shape for name, shape in shapes.items() if name.startswith("controlnet_cond_embedding")}
    matrices = low_rank(weights, lambda name, matrix: "base_model.model." + peft(name, matrix).removeprefix("unet."))
    found = identify(header_of({**matrices, **whole}))

    assert found.summary == "a LoRA (rank 4) of a ControlNet for Stable Diffusion 1, float16"
    assert found.models == ("controlnet-sd15-canny",)


def test_the_table_has_a_row_for_each_block_and_fits_80_columns() -> None:
    """Numbers, diffusers' names and types; the layers by group above."""
    weights = {name: shape for name, shape in weights_of(catalog_shapes("sdxl")).items() if "attentions" in name}
    text = render_table(checkpoint_table(identify(header_of(low_rank(weights, kohya)))), Screen(width=80))[0]

    assert max(len(line) for line in text.splitlines() if "lora_unet_" not in line) <= 80
    assert "layers:  UNet: 722 linear layers, LoRA, rank 4" in text
    assert "IN04   down_blocks.1.attentions.0" in text


def test_a_file_of_many_layers_without_a_whole_form_is_read_in_time() -> None:
    """Each is compared with one whole layer, not with all: 12,000 of both took half a minute that way."""
    name = "lora_unet_down_blocks_"
    tensors: Shapes = {}
    for number in range(12_000):
        tensors |= {f"{name}{number}_a.lora_{side}.weight": (4, 4) for side in ("down", "up")}
        tensors[f"{name}{number}_b.hada_w1_a"] = (4, 4)
    start = process_time()
    lora = identify(header_of(tensors)).lora

    assert process_time() - start < 15
    assert lora is not None
    assert lora.faults[0].startswith("12000 layers are incomplete: hada_w1_b, hada_w2_a and hada_w2_b are missing")
