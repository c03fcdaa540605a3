"""What models a checkpoint contains, by the names of its tensors: under which prefixes, in which layout."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from itertools import islice

from msgspec import Struct
from msgspec.structs import replace

from unetinspect.checkpoint.affixes import LONGEST_ENDING, LORA_MATRIX, PREFIXES, WRAPPED, WRAPPERS
from unetinspect.checkpoint.quantized import QUANTO_VALUES, unpack
from unetinspect.checkpoint.safetensors_header import TensorSpec
from unetinspect.record.checkpoint import Content, Layout
from unetinspect.units import joined

CONTENT_WORDS: dict[Content, str] = {
    "controlnet": "a ControlNet",
    "t2i_adapter": "a T2I-Adapter",
    "motion_adapter": "an AnimateDiff motion adapter",
    "ip_adapter": "an IP-Adapter",
    "lora": "a LoRA",
    "control_lora": "a Control-LoRA",
    "controlnet_lllite": "a ControlNet-LLLite",
    "hypernetwork": "a hypernetwork",
    "vae": "a VAE",
    "text_encoder": "a text encoder",
    "image_encoder": "an image encoder",
    "textual_inversion": "a textual inversion embedding",
    "transformer": "a diffusion transformer",
}

# The tensor that each UNet has one of, in diffusers' layout and the original one: what is before its name is a prefix.
_FIRST_TENSORS = ("conv_in.weight", "input_blocks.0.0.weight")
SHARD = re.compile(r"-([0-9]{5})-of-([0-9]{5})\.safetensors\Z", re.IGNORECASE)  # how the name of one file of several ends
_MOST_PREFIXES = 16  # a damaged file may have thousands of such tensors

_UNET = " conv_in conv_out down_blocks up_blocks time_embedding"
_CONTROLNET = "controlnet_down_blocks|controlnet_cond_embedding"
# The content, the layout, the diffusers class, and the words in the names of its tensors: `word` is the part before the first dot,
# `.word` any part; `a|b` is either, `!a` is absent. The first row that matches counts; a tensor with its first word is the evidence.
_SIGNATURES: tuple[tuple[Content, Layout | None, str | None, str], ...] = (
    ("control_lora", "original", None, "lora_controlnet"),
    ("controlnet_lllite", "original", None, ".conditioning1 .down .up"),
    ("hypernetwork", None, None, "|".join(f"{width}.0.linear" for width in (320, 640, 768, 1024, 1280, 2048))),
    ("controlnet", "original", "ControlNetModel", "input_hint_block zero_convs"),
    ("unet", "diffusers", "UNetControlNetXSModel", "control_to_base_for_conv_in base_conv_in"),
    ("controlnet", "diffusers", "ControlNetXSAdapter", "up_connections control_to_base_for_conv_in"),
    ("controlnet", "diffusers", None, "controlnet_blocks|controlnet_single_blocks"),
    ("controlnet", "diffusers", "ControlNetUnionModel", f"{_CONTROLNET} control_type_proj|control_add_embedding|task_embedding"),
    ("controlnet", "diffusers", "SparseControlNetModel", f"{_CONTROLNET} .motion_modules"),
    ("controlnet", "diffusers", "ControlNetModel", _CONTROLNET),
    ("motion_adapter", "original", "MotionAdapter", ".motion_modules .temporal_transformer !conv_in"),
    ("motion_adapter", "diffusers", "MotionAdapter", ".motion_modules !conv_in"),
    ("t2i_adapter", "diffusers", "T2IAdapter", ".body adapter"),
    ("unet", "original", "UNetSpatioTemporalConditionModel", "input_blocks output_blocks .time_stack|.time_mixer"),
    ("unet", "original", "UNet3DConditionModel", "input_blocks output_blocks .temopral_conv"),  # spelled so in ModelScope's code
    ("unet", "original", None, "input_blocks output_blocks"),
    ("unet", "diffusers", "UNetMotionModel", f".motion_modules{_UNET}"),
    ("unet", "diffusers", "I2VGenXLUNet", f".image_latents_proj_in{_UNET}"),
    ("unet", "diffusers", "UNetSpatioTemporalConditionModel", f".temporal_transformer_blocks|.temporal_res_block{_UNET}"),
    ("unet", "diffusers", "UNet3DConditionModel", f".temp_convs{_UNET}"),
    ("unet", "diffusers", "Kandinsky3UNet", f".resnets_in{_UNET}"),
    ("unet", "diffusers", "DreamLiteUNetModel", f".pointwise{_UNET}"),
    # Several attention modules for each resnet, so more than one in a mid block of two resnets.
    ("unet", "diffusers", "AudioLDM2UNet2DConditionModel", f"mid_block.attentions.1{_UNET}"),
    ("unet", "diffusers", None, f"down_blocks{_UNET}"),
    ("unet", "original", "StableCascadeUNet", ".in_proj_weight down_blocks up_blocks .channelwise"),
    ("unet", "diffusers", "StableCascadeUNet", ".channelwise down_blocks up_blocks"),
    ("unet", "diffusers", "UVit2DModel", "transformer_layers down_block up_block mlm_layer"),
    ("unet", "diffusers", "UNet1DModel", "down_blocks mid_block time_mlp"),
    ("unet", "diffusers", "UNet1DModel", "down_blocks mid_block time_proj !conv_in"),
    # Named like FLUX.1, and with a transformer that refines the text's tokens.
    ("transformer", "original", "HunyuanVideoTransformer3DModel", ".individual_token_refiner double_blocks single_blocks vector_in"),
    ("transformer", "original", "FluxTransformer2DModel", "double_blocks single_blocks img_in vector_in"),
    ("transformer", "original", None, "double_blocks"),
    ("transformer", "original", "SD3Transformer2DModel", "joint_blocks"),
    ("transformer", "original", "AuraFlowTransformer2DModel", "double_layers"),
    ("transformer", "original", "LTXVideoTransformer3DModel", "patchify_proj"),
    ("transformer", "diffusers", "FluxTransformer2DModel", "single_transformer_blocks x_embedder .text_embedder !.token_refiner"),
    ("transformer", "diffusers", "AuraFlowTransformer2DModel", "joint_transformer_blocks"),
    ("transformer", "diffusers", "SD3Transformer2DModel", "context_embedder pos_embed"),
    ("transformer", "diffusers", "PixArtTransformer2DModel", ".resolution_embedder caption_projection adaln_single pos_embed"),
    ("transformer", "diffusers", None, "single_transformer_blocks|caption_projection|adaln_single|context_embedder"),
    ("transformer", "diffusers", None, "transformer_blocks|visual_transformer_blocks"),
    ("transformer", "original", None, "cap_embedder|y_embedder|x_embedder|patch_embedding"),
    ("vae", "diffusers", "AutoencoderKL", "decoder|encoder .down_blocks|.up_blocks .conv_in|quant_conv"),
    ("vae", "diffusers", "AutoencoderTiny", "decoder encoder .layers .conv !.conv_in !.block !.self_attn"),
    ("vae", "original", "AutoencoderTiny", "3.conv.0 3.conv.2 3.conv.4"),
    ("vae", "original", "AutoencoderTiny", "taesd_decoder|taesd_encoder .conv"),
    ("vae", "original", None, "decoder|encoder .down|.up|.layers .conv_in|quant_conv"),
    ("image_encoder", None, None, "vision_model !text_model"),
    ("text_encoder", None, None, "text_model|.token_embedding|text_projection|shared|.embed_tokens"),
    ("t2i_adapter", "original", "T2IAdapter", "body conv_in|body.0.in_conv !conv_out"),
)


class Kind(Struct, frozen=True):
    """What a group of names is.

    Attributes:
        content: What it contains.
        layout: How its tensors are named, None: neither as in diffusers nor as in the original code.
        class_name: The diffusers class, None where names do not show it.
        because: The tensor that shows it, or None.
    """

    content: Content
    layout: Layout | None = None
    class_name: str | None = None
    because: str | None = None


class Part(Struct, frozen=True, kw_only=True):
    """One of the models in a checkpoint.

    Attributes:
        name: What it is called in the record.
        prefix: What the names of its tensors start with.
        stored: Its tensors as the file has them, by their whole names.
        tensors: Its tensors as the model has them: without the prefix, wrappers in names, and what a quantizer adds.
        names: The whole name of each of these.
        wrappers: The parts that wrappers have put into names ("_orig_mod.").
        form: How its quantized weights are stored ("NF4 (bitsandbytes)"); None: none is quantized.
        flat: Whole names of packed tensors of whose shape only the number of values is known.
        kind: What it is.
    """

    name: str
    prefix: str
    stored: dict[str, TensorSpec]
    tensors: dict[str, TensorSpec]
    names: dict[str, str]
    wrappers: tuple[str, ...]
    form: str | None
    flat: frozenset[str]
    kind: Kind

    @property
    def remarks(self) -> tuple[str, ...]:
        """What is around its names, and who is known to put it there, a sentence each."""
        around = [(self.prefix, "before")] if self.prefix not in ("", *dict(PREFIXES)) else []
        around += [(wrapper, "in") for wrapper in self.wrappers]
        return tuple(f"{words!r} is {where} its names{_added_by(words)}" for words, where in around)


def _added_by(words: str) -> str:
    known = [WRAPPERS[word] for word in sorted(WRAPPERS, key=len, reverse=True) if f".{word}" in f".{words}"]
    return f", added by {joined(known)}" if known else ""


def find_parts(tensors: Mapping[str, TensorSpec]) -> list[Part]:
    """Sort tensors by prefix into the models that they belong to; those without a prefix are one model, or none.

    A prefix is one that tools are known to add, or any with which a UNet's names become those of a UNet.
    """
    # PEFT puts the matrices of a LoRA beside the layer that it wraps.
    lora = set()
    if any(".base_layer." in name for name in tensors):
        lora = {name for name in tensors if LORA_MATRIX.search(name[-LONGEST_ENDING:])}
    bare = {name: name if name in lora else WRAPPED.sub("", name) for name in tensors}
    bare = bare if len(set(bare.values())) == len(bare) else dict(zip(tensors, tensors, strict=True))  # a damaged file: no name is lost
    prefixes = (*_derived_prefixes(bare.values()), *PREFIXES)
    groups: dict[tuple[str, str | None], list[str]] = {}
    for name, cleaned in bare.items():
        prefix, part = next((row for row in prefixes if cleaned.startswith(row[0])), ("", None)) if name not in lora else ("", "lora")
        groups.setdefault((prefix, part), []).append(name)
    # OpenCLIP's text encoder has some of its names behind "transformer.", which is a prefix elsewhere.
    if ("", None) in groups and ("transformer.", None) in groups and kind_of(groups["", None]).content == "text_encoder":
        groups["", None] += groups.pop(("transformer.", None))
    parts = [_part(prefix, part, {name: tensors[name] for name in names}, bare) for (prefix, part), names in groups.items()]
    unets = [part for part in parts if part.kind.content == "unet"]
    if all(part.name == "ema" for part in unets):  # a moving average alone is the UNet
        parts = [replace(part, name="unet") if part in unets[:1] else part for part in parts]
    return parts


def _derived_prefixes(names: Collection[str]) -> list[tuple[str, str | None]]:
    """Return the prefixes, longest first, behind which there is a UNet or ControlNet, and the parts that they mark."""
    ends = (name.removesuffix(first) for first in _FIRST_TENSORS for name in names if name.endswith(f".{first}"))
    found = []
    for prefix in sorted(islice(dict.fromkeys(ends), _MOST_PREFIXES), key=len, reverse=True):
        content = kind_of(name[len(prefix) :] for name in names if name.startswith(prefix)).content
        if content in ("unet", "controlnet"):
            words = re.split(r"[._]", prefix.lower())
            # A consistency model's VAE has a UNet as its decoder.
            named = "ema" if "ema" in words else "vae" if "decoder" in words else None
            found.append((prefix, dict(PREFIXES).get(prefix, named)))
    return found


def _part(prefix: str, name: str | None, stored: dict[str, TensorSpec], bare: Mapping[str, str]) -> Part:
    unpacked = unpack({bare[whole][len(prefix) :]: tensor for whole, tensor in stored.items()})
    kind = Kind("lora") if name == "lora" else kind_of(unpacked.tensors)
    if kind.content == "unknown" and name is None and unpacked.tensors:
        # The constant part that all names start with, up to any dot in it.
        shared = common_prefix(unpacked.tensors)
        for dot in islice(re.finditer(r"\.", shared), _MOST_PREFIXES):
            kind = kind_of(each[dot.end() :] for each in unpacked.tensors)
            if kind.content != "unknown":
                return _part(prefix + shared[: dot.end()], name, stored, bare)
    if name == "controlnet" and kind.content != "controlnet":
        kind = Kind("controlnet", "original")
    wholes = {bare[whole][len(prefix) :]: whole for whole in stored}
    names = {each: wholes[each if each in wholes else each + QUANTO_VALUES] for each in unpacked.tensors}
    heads = {whole.removesuffix(each) for each, whole in wholes.items()}
    return Part(
        name=name or (kind.content if kind.content != "unknown" else "other"),
        prefix=heads.pop() if len(heads) == 1 else prefix,
        stored=stored,
        tensors=unpacked.tensors,
        names=names,
        wrappers=tuple(dict.fromkeys(part for whole in stored if whole != bare[whole] for part in WRAPPED.findall(whole))),
        form=unpacked.form,
        flat=frozenset(names[each] for each in unpacked.flat),
        kind=kind,
    )


def kind_of(names: Iterable[str]) -> Kind:
    """Say what model has tensors of these names, without their prefix."""
    words: dict[str, str] = {}
    for name in names:
        parts = name.split(".", 12)
        for word in (parts[0], ".".join(parts[:3]), *(f".{part}" for part in parts)):
            words.setdefault(word, name)
    for content, layout, class_name, signature in _SIGNATURES:
        terms = signature.split()
        if all(_holds(term, words) for term in terms):
            return Kind(content, layout, class_name, next(words[word] for word in terms[0].split("|") if word in words))
    return Kind("unknown")


def _holds(term: str, words: Mapping[str, str]) -> bool:
    if term.startswith("!"):
        return term[1:] not in words
    return any(word in words for word in term.split("|"))


def shard_of(file: str) -> str | None:
    """Say which one of several files it is, by its name.

    >>> shard_of("diffusion_pytorch_model-00001-of-00002.safetensors")
    'file 1 of 2'
    """
    found = SHARD.search(file)
    return f"file {int(found[1])} of {int(found[2])}" if found else None


def common_prefix(names: Iterable[str]) -> str:
    """Return what all names start with, up to a dot or an underscore."""
    listed = list(names)
    low, high = min(listed), max(listed)
    shared = next((index for index, (a, b) in enumerate(zip(low, high, strict=False)) if a != b), len(low))
    end = max(low.rfind(".", 0, shared), low.rfind("_", 0, shared))
    return low[: end + 1]
