"""`identify` and `check --weights` of UNets as files hold them: quantized, wrapped, with a LoRA inside, one shard of several."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from functools import cache
from math import prod
from pathlib import Path
from typing import Any

import bitsandbytes.nn.modules as bnb
import gguf
import numpy as np
import peft
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace
from safetensors.torch import save_file
from torch import nn

from tests.checkpoints import ORIGINALS, Shapes, catalog_shapes, header_of, original_unet, write_checkpoint
from tests.tiny import KINDS, some
from unetinspect.catalog import load_catalog
from unetinspect.checking.weights import WeightsReport, compare_weights
from unetinspect.checkpoint.gguf_header import parse_gguf
from unetinspect.checkpoint.identify import identify
from unetinspect.checkpoint.safetensors_header import Header, TensorSpec
from unetinspect.errors import SourceError
from unetinspect.run.build import build_unet
from unetinspect.run.resolve import resolve_config
from unetinspect.source.read import read_weights

VAE = {"decoder.conv_in.weight": (512, 4, 3, 3), "encoder.conv_in.weight": (128, 3, 3, 3), "quant_conv.weight": (8, 8, 1, 1)}
Tensors = dict[str, TensorSpec]
STRUCTURES = ["lcm-dreamshaper", "sdxl", *some(load_catalog(), 9)]


def config_of(name: str) -> dict[str, Any]:
    """Return the whole config of a model of the catalog, or of a small one."""
    return resolve_config(dict(KINDS[name] if name in KINDS else load_catalog()[name].config)).values


@cache
def built(name: str) -> nn.Module:
    """Build a model of the catalog, or a small one, on meta."""
    config = resolve_config(dict(KINDS[name] if name in KINDS else load_catalog()[name].config))
    return build_unet(config, device=torch.device("meta"), dtype=torch.float16, name=name)


def against(name: str, header: Header) -> WeightsReport:
    """Compare a header with a model."""
    unet = built(name)
    return compare_weights(unet, config_of(name), header, identify(header))


def linear(unet: nn.Module) -> set[str]:
    """Return the weights that quantizers replace: those of linear layers."""
    return {f"{path}.weight" for path, module in unet.named_modules() if isinstance(module, nn.Linear)}


def bnb_4bit(kind: str, storage: str = "U8") -> Callable[[str, int, int], Iterator[tuple[str, TensorSpec]]]:
    """Return a writer of what bitsandbytes stores for a matrix in 4 bits, with nested statistics."""
    width = {"U8": 1, "BF16": 2}[storage]

    def write(name: str, rows: int, columns: int) -> Iterator[tuple[str, TensorSpec]]:
        blocks = -(-rows * columns // 64)
        yield name, TensorSpec((rows * columns // 2 // width, 1), storage)
        yield f"{name}.absmax", TensorSpec((blocks,), "U8")
        yield f"{name}.quant_map", TensorSpec((16,), "F32")
        yield f"{name}.nested_absmax", TensorSpec((-(-blocks // 256),), "F32")
        yield f"{name}.nested_quant_map", TensorSpec((256,), "F32")
        yield f"{name}.quant_state.bitsandbytes__{kind}", TensorSpec((160,), "U8")

    return write


def beside(dtype: str, *endings: str, packed: int = 1) -> Callable[[str, int, int], Iterator[tuple[str, TensorSpec]]]:
    """Return a writer of a matrix in one dtype, `packed` values in each of its own, and scales beside it."""

    def write(name: str, rows: int, columns: int) -> Iterator[tuple[str, TensorSpec]]:
        yield name, TensorSpec((rows, columns // packed), dtype)
        yield from ((name.removesuffix(".weight") + ending, TensorSpec((), "F32")) for ending in endings)

    return write


def quanto(name: str, rows: int, columns: int) -> Iterator[tuple[str, TensorSpec]]:
    """Write a matrix as optimum-quanto does."""
    yield f"{name}._data", TensorSpec((rows, columns), "I8")
    yield f"{name}._scale", TensorSpec((rows, 1), "F16")
    yield f"{name.removesuffix('weight')}input_scale", TensorSpec((), "F16")
    yield f"{name.removesuffix('weight')}output_scale", TensorSpec((), "F16")


NF4 = "NF4 (bitsandbytes)"
FORMS = {
    NF4: bnb_4bit("nf4"),
    "NF4 (bitsandbytes), as bfloat16": bnb_4bit("nf4", "BF16"),
    "FP4 (bitsandbytes)": bnb_4bit("fp4"),
    "int8 (bitsandbytes)": beside("I8", ".SCB", ".weight_format"),
    "scaled fp8": beside("F8_E4M3", ".scale_weight", ".scale_input"),
    "scaled fp8, ComfyUI's newer names": beside("F8_E4M3", ".weight_scale", ".input_scale", ".comfy_quant"),
    "scaled int8": beside("I8", ".weight_scale", ".comfy_quant"),
    "NVFP4": beside("U8", ".weight_scale", ".weight_scale_2", ".comfy_quant", packed=2),
    "int8 (quanto)": quanto,
}


def quantized(shapes: Shapes, weights: set[str], form: str, prefix: str = "") -> Header:
    """Return the header of a file in which these weights are quantized and all else is in half precision."""
    tensors: Tensors = {f"{prefix}scaled_fp8": TensorSpec((0,), "F8_E4M3")} if form == "scaled fp8" else {}
    for name, shape in shapes.items():
        tensors |= dict(FORMS[form](prefix + name, *shape)) if name in weights else {prefix + name: TensorSpec(shape, "F16")}
    return Header(name="q.safetensors", tensors=tensors, bytes=sum(tensor.bytes or 0 for tensor in tensors.values()))


# A form is of a tensor, not of a model; the one that leaves only the number of values is tried on all models.
@pytest.mark.parametrize(("model", "form"), [*((STRUCTURES[0], form) for form in FORMS), *((model, NF4) for model in STRUCTURES[1:])])
def test_a_quantized_unet_is_the_unet_that_was_quantized(model: str, form: str) -> None:
    """Class, config, models and parameters are those of the plain file, whatever the form; its own UNet has all its tensors."""
    shapes = catalog_shapes(model)
    plain, header = identify(header_of(shapes)), quantized(shapes, linear(built(model)), form)
    found = identify(header)

    assert (found.class_name, found.config, found.models, found.params) == (
        *(plain.class_name, plain.config, plain.models),
        load_catalog()[model].params,
    )
    assert found.parts[0].quantization == form.partition(",")[0]
    assert found.summary.startswith(form.partition(" (")[0].partition(",")[0] + " of ")
    assert found.parts[0].tensors == found.tensors == len(header.tensors) > len(shapes)
    report = against(model, header)
    assert (report.findings, report.check.matched) == ((), len(shapes))


@pytest.mark.parametrize("model", ["sd15", "sdxl"])
@pytest.mark.parametrize("form", some(FORMS, 2))
def test_a_quantized_checkpoint_in_the_original_layout_is_read_too(model: str, form: str) -> None:
    """Widths of packed queries and keys follow from the layer that reads what they attend to, under any names."""
    shapes = original_unet(ORIGINALS[model])
    weights = {name for name, shape in shapes.items() if len(shape) == 2}
    header = quantized(shapes, weights, form, "model.diffusion_model.")

    assert identify(header).models == identify(header_of(shapes)).models
    assert against(model, header).findings == ()


def test_what_differs_in_a_quantized_file_is_found() -> None:
    """Another width of the text, and a matrix of another size, are findings in a packed file as in any other."""
    shapes = catalog_shapes("sd21")
    header = quantized(shapes, linear(built("sd21")), NF4)
    assert {key for finding in against("sd15", header).findings for key in finding.where} >= {"cross_attention_dim"}

    own = quantized(catalog_shapes("sd15"), linear(built("sd15")), NF4)
    name = "time_embedding.linear_1.weight"
    own.tensors[name] = TensorSpec((7 * 1280, 1), "U8")
    assert against("sd15", own).check.mismatched == 1


def quantize(unet: nn.Module, layer: Callable[[nn.Linear], nn.Module]) -> nn.Module:
    """Replace every linear layer, as diffusers' quantizers do."""
    for path, module in list(unet.named_modules()):
        if isinstance(module, nn.Linear):
            parent, _, name = path.rpartition(".")
            new = layer(module)
            new.load_state_dict(module.state_dict())
            setattr(unet.get_submodule(parent), name, new.to("cpu"))
    return unet


def small() -> nn.Module:
    """Build the small conditioned UNet with values."""
    return build_unet(resolve_config(dict(KINDS["conditioned"])), device=torch.device("cpu"), dtype=torch.float32, name="small")


@pytest.mark.parametrize("kind", ["nf4", "fp4", "int8"])
def test_a_file_that_bitsandbytes_has_made_fits_its_unet(kind: str, tmp_path: Path) -> None:
    """Its own layers quantize on the CPU; the file is written by safetensors and read back by its header."""

    def layer(module: nn.Linear) -> nn.Module:
        sides = module.in_features, module.out_features
        if kind == "int8":
            return bnb.Linear8bitLt(*sides, bias=module.bias is not None, has_fp16_weights=False)
        return bnb.Linear4bit(*sides, bias=module.bias is not None, quant_type=kind, compress_statistics=True)

    save_file(quantize(small(), layer).state_dict(), tmp_path / "q.safetensors")
    found = read_weights(str(tmp_path / "q.safetensors"))
    report = compare_weights(built("conditioned"), config_of("conditioned"), found.header, found.checkpoint)

    assert found.checkpoint.parts[0].quantization == {"nf4": "NF4", "fp4": "FP4", "int8": "int8"}[kind] + " (bitsandbytes)"
    assert (report.findings, report.check.matched) == ((), len(built("conditioned").state_dict()))
    assert found.checkpoint.params == sum(parameter.numel() for parameter in built("conditioned").parameters())


def test_a_moving_average_alone_is_the_unet() -> None:
    """Under a prefix that marks it, and with all the tensors of a model it is no part of one."""
    shapes = original_unet(ORIGINALS["sd15"])
    found = identify(header_of(shapes, prefix="ema_model."))

    assert (found.content, found.models[0], [part.name for part in found.parts]) == ("unet", "sd15", ["unet"])
    assert against("sd15", header_of(shapes, prefix="ema_model.")).findings == ()


def test_encoders_of_a_whole_checkpoint_are_counted() -> None:
    """SGM numbers them behind one prefix; that of Stable Video Diffusion reads images."""
    text = {f"conditioner.embedders.{number}.transformer.text_model.embeddings.token_embedding.weight": (9, 9) for number in (0, 1)}
    image = {"conditioner.embedders.0.open_clip.model.visual.conv1.weight": (9, 3, 4, 4)}
    for model, encoders, words in (("sdxl", text, "UNet and 2 text encoders"), ("svd-xt", image, "UNet and image encoder")):
        unet = original_unet(ORIGINALS[model], "model.diffusion_model.")
        assert f"like {model}: {words}, float16, v-prediction" in identify(header_of({**unet, **encoders, "v_pred": (0,)})).summary


PREFIXES = ["module.", "_orig_mod.", "unet.module.", "net.generator.", "state_dict.model.diffusion_model.", "base_model.model.", "a.b.c.d."]


@pytest.mark.parametrize(
    ("model", "prefix"),
    [
        *(("lcm-dreamshaper", prefix) for prefix in PREFIXES),
        *((model, PREFIXES[-1]) for model in (*some(STRUCTURES[1:], 2), "maestro-150k", "hopper-medium-v2-value-function", "amused-512")),
    ],
)
def test_any_constant_prefix_is_taken_off_and_named(model: str, prefix: str) -> None:
    """In both layouts, and beside the tensors of other models."""
    shapes = catalog_shapes(model)
    plain, found = identify(header_of(shapes)), identify(header_of(shapes, prefix=prefix))

    assert replace(found, parts=(), evidence=()) == replace(plain, parts=(), evidence=())
    assert [(part.name, part.prefix) for part in found.parts] == [("unet", prefix)]
    assert any(prefix in sentence for sentence in found.evidence)
    report = against(model, header_of(shapes, prefix=prefix))
    assert report.findings == ()


def test_a_prefix_is_found_beside_other_models() -> None:
    """A trainer's file: a teacher, a student and its moving average, a VAE, and the state of the optimizer."""
    shapes = original_unet(ORIGINALS["sd15"])
    vae = {f"vae.{name}": shape for name, shape in VAE.items()}
    state = {f"optimizer.state.{index}.exp_avg": (320,) for index in range(3)}
    several = {f"{name}.{key}": shape for name in ("student", "student_ema") for key, shape in shapes.items()} | vae | state
    found = identify(header_of(several))

    assert {(part.name, part.prefix) for part in found.parts} == {
        ("unet", "student."),
        ("ema", "student_ema."),
        ("vae", "vae."),
        ("other", ""),
    }
    assert (found.content, found.models[0]) == ("pipeline", "sd15")


def test_wrappers_inside_names_are_taken_out() -> None:
    """Modules that are compiled, sharded or checkpointed one by one have the wrapper's name between their own."""
    shapes = {name.replace(".resnets.", "._orig_mod.resnets."): shape for name, shape in catalog_shapes("sd15").items()}
    report = against("sd15", header_of(shapes))

    assert (report.findings, report.check.matched) == ((), len(shapes))
    assert any("'_orig_mod.' is in its names, added by torch.compile" in note for note in report.check.notes)


@pytest.mark.parametrize("targets", [["to_q", "to_v"], ["to_q", "to_k", "to_v", "to_out.0", "proj", "net.2", "conv1", "conv2", "linear_1"]])
def test_a_unet_with_a_lora_in_it_is_that_unet(targets: list[str], tmp_path: Path) -> None:
    """As peft injects it into a module: wrapped layers and matrices beside them, with or without PEFT's own prefix."""
    unet = small()
    count = len(unet.state_dict())
    whole = peft.get_peft_model(unet, peft.LoraConfig(r=4, target_modules=targets)).state_dict()
    for state in (whole, {name.removeprefix("base_model.model."): tensor for name, tensor in whole.items()}):
        save_file({name: tensor.contiguous() for name, tensor in state.items()}, tmp_path / "l.safetensors")
        found = read_weights(str(tmp_path / "l.safetensors"))
        report = compare_weights(built("conditioned"), config_of("conditioned"), found.header, found.checkpoint)

        assert [part.name for part in found.checkpoint.parts] == ["unet", "lora"]
        assert (report.findings, report.check.matched) == ((), count)
        assert f"{len(state) - count} tensors of a LoRA in it, not compared" in report.check.notes


@pytest.mark.parametrize("model", ["sdxl", "svd-xt", "kandinsky-3"])
def test_one_file_of_several_is_a_part_of_its_model(model: str) -> None:
    """All its tensors are those of models of the catalog; it has no config, and with one other tensor it is unknown."""
    shapes = list(catalog_shapes(model).items())
    half = [name for name in dict(shapes[len(shapes) // 2 :]) if name.startswith(("down_blocks", "up_blocks", "mid_block"))]
    header = replace(header_of({name: dict(shapes)[name] for name in half}), name="x/diffusion_pytorch_model-00002-of-00003.safetensors")
    found = identify(header)

    assert found.class_name == load_catalog()[model].class_name
    assert f"(file 2 of 3): {len(half):,} of the {len(shapes):,} tensors of {model}" in found.summary
    assert (found.config, found.models) == (None, ())
    assert identify(header_of({**{name: dict(shapes)[name] for name in half}, "down_blocks.7.weight": (3,)})).content == "unknown"


def files_at(folder: Path) -> None:
    """Write what a folder of a model manager has: two UNets, a file of another model, a pickle, a damaged file, one UNet in two files."""
    (folder / "more").mkdir()
    shapes = original_unet(ORIGINALS["sd15"])
    write_checkpoint(folder / "sd15.safetensors", header_of(shapes))
    write_checkpoint(folder / "more" / "nf4.safetensors", quantized(catalog_shapes("sdxl"), linear(built("sdxl")), NF4))
    (folder / "damaged.safetensors").write_bytes(b"nonsense")
    (folder / "old.ckpt").write_bytes(b"\x80")
    halves = list(catalog_shapes("sd21").items())
    names = [f"diffusion-0000{number}-of-00002.safetensors" for number in (1, 2)]
    for name, part in zip(names, (halves[:300], halves[300:]), strict=True):
        write_checkpoint(folder / "more" / name, header_of(dict(part)))
    weight_map = {name: names[place >= 300] for place, (name, _) in enumerate(halves)}
    (folder / "more" / "diffusion.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))


def test_a_folder_a_glob_and_several_files_have_a_row_each(cli: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An index is one file, what cannot be read is a note and a row without a record, pickles are counted, the JSON is a list."""
    files_at(tmp_path)
    monkeypatch.chdir(tmp_path)
    everything = ["more/diffusion.safetensors.index.json", "more/nf4.safetensors", "sd15.safetensors"]
    for words, expected in (
        (["."], everything),
        (["more"], everything[:2]),
        (["more", "."], everything),
        (["*.safetensors"], everything[2:]),
        (["sd15.safetensors", "more/nf4.safetensors"], ["sd15.safetensors", "more/nf4.safetensors"]),
    ):
        code, out, err = cli("identify", *words, "--json")
        found = json.loads(out)
        assert (code, [one["name"] for one in found]) == (0, expected)
        assert [one["models"][0] for one in found] == [{"di": "sd21", "nf": "sdxl", "sd": "sd15"}[Path(name).name[:2]] for name in expected]
        assert ("damaged.safetensors is not a safetensors file" in err) == ("." in words or "*.safetensors" in words)

    table = cli("identify", ".")[1].splitlines()
    assert [re.split(r" {2,}", line)[0] for line in table[2:]] == [*everything, "damaged.safetensors"]
    assert [re.split(r" {2,}", line)[4] for line in table[2:]] == ["F16", "NF4 (bitsandbytes)", "F16", "-"]
    assert "unreadable: not a safetensors file" in table[-1]
    assert "1 pickle file in . was not opened" in cli("identify", ".")[2]
    assert len(cli("identify", ".", "--format", "csv")[1].splitlines()) == 1 + len(everything)


def test_a_named_file_that_cannot_be_read_is_an_error_after_the_others(cli: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The others are shown; of a folder without any file that can be read, the error is that of the first."""
    files_at(tmp_path)
    monkeypatch.chdir(tmp_path)
    code, out, err = cli("identify", "damaged.safetensors", "sd15.safetensors", "--json")
    assert (code, [one["name"] for one in json.loads(out)]) == (3, ["sd15.safetensors"])
    assert err.splitlines()[-2].startswith("error: damaged.safetensors is not a safetensors file")
    assert cli("identify", "dam*")[0] == 3
    assert cli("identify", "no*.safetensors")[:2] == (3, "")
    assert "found no .safetensors or .gguf file in old*" in cli("identify", "old*")[2]


def gguf_file(path: Path, shapes: Shapes, kind: str, prefix: str = "", version: str = "") -> Path:
    """Write a GGUF with the library of the format: matrices are quantized, what has no whole blocks is made so, all else is F16."""
    writer = gguf.GGUFWriter(path, "sdxl")
    writer.add_string("comfy.version", version)
    values, size = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[kind]]
    for name, shape in shapes.items():
        if len(shape) == 1 or prod(shape) % values:
            writer.add_tensor_info(prefix + name, shape, np.dtype(np.float16), 2 * prod(shape))
            continue
        rows = shape
        if shape[-1] % values:
            writer.add_array(f"comfy.gguf.orig_shape.{prefix}{name}", list(shape))
            rows = (prod(shape) // values, values)
        packed = (*rows[:-1], rows[-1] // values * size)
        writer.add_tensor_info(prefix + name, packed, np.dtype(np.uint8), prod(packed), gguf.GGMLQuantizationType[kind])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    writer.close()
    sizes = sum(-(-info.nbytes // 32) * 32 for info in writer.tensors[0].values())
    with path.open("r+b") as file:
        file.seek(0, 2)
        file.truncate(-(-file.tell() // 32) * 32 + sizes)
    return path


def test_a_gguf_of_every_type_has_the_sizes_that_its_library_counts(tmp_path: Path) -> None:
    """Each type by its name, in a file that names it; one that comes with a new library is missing here."""
    for kind, (values, size) in gguf.GGML_QUANT_SIZES.items():
        if values > 1:
            found = read_weights(str(gguf_file(tmp_path / f"{kind.name}.gguf", {"a.weight": (3, values), "a.bias": (3,)}, kind.name)))

            assert {name: (*tensor,) for name, tensor in found.header.tensors.items()} == {
                "a.weight": ((3, values), kind.name),
                "a.bias": ((3,), "F16"),
            }
            assert (found.header.bytes, found.checkpoint.parts[0].quantization) == (3 * size + 6, f"{kind.name} (GGUF)")


@pytest.mark.parametrize("kind", ["Q4_0", "Q6_K"])
def test_a_gguf_of_a_unet_is_that_unet(kind: str, tmp_path: Path) -> None:
    """Shapes are those of the model, also where rows were made as long as a block: of 32 values, and of 256."""
    found = read_weights(str(gguf_file(tmp_path / "sd15.gguf", original_unet(ORIGINALS["sd15"]), kind)))

    assert (found.checkpoint.models[0], found.checkpoint.params) == ("sd15", load_catalog()["sd15"].params)
    assert against("sd15", found.header).findings == ()


@settings(max_examples=100, deadline=None)
@given(cut=st.integers(0, 4000), place=st.integers(0, 3999), byte=st.integers(0, 255))
def test_a_damaged_gguf_is_an_error_or_is_read(gguf_bytes: bytes, cut: int, place: int, byte: int) -> None:
    """Cut anywhere or with any byte changed: one clear sentence, never anything else."""
    raw = bytearray(gguf_bytes)
    raw[place] = byte
    for damaged in (bytes(raw), gguf_bytes[:cut]):
        said = ""
        try:
            parse_gguf(damaged, what="x.gguf", file_bytes=10**10)
        except SourceError as error:
            said = error.message
        assert said.startswith(
            ("the GGUF header of x.gguf is damaged", "x.gguf is a GGUF file of version", "" if damaged == raw else "the")
        )


@pytest.fixture(scope="module")
def gguf_bytes(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """Return the header of a GGUF."""
    return gguf_file(tmp_path_factory.mktemp("gguf") / "x.gguf", original_unet(ORIGINALS["sd15"]), "Q4_K").read_bytes()[:60_000]
