"""What a checkpoint is, by its header alone; and the names of a UNet's modules and tensors in other tools."""

from __future__ import annotations

from typing import Any, Literal

from msgspec import Struct

from unetinspect.record.run import Shape

Layout = Literal["diffusers", "original"]
Content = Literal[
    "pipeline",
    "unet",
    "controlnet",
    "t2i_adapter",
    "motion_adapter",
    "ip_adapter",
    "lora",
    "control_lora",
    "controlnet_lllite",
    "hypernetwork",
    "vae",
    "text_encoder",
    "image_encoder",
    "textual_inversion",
    "transformer",
    "unknown",
]


LoraFormat = Literal["kohya", "lycoris", "peft", "diffusers", "comfyui"]


class LoraGroup(Struct, frozen=True, kw_only=True):
    """The layers of a LoRA that are in one model, of one kind and of one form.

    Attributes:
        part: The model: "unet", "text_encoder", "text_encoder_2", "transformer"; "other": unknown.
        kind: "convolution" is one with a kernel larger than 1.
        form: "LoRA", "LoHa", "LoKr", "GLoRA", "IA3", "OFT", "BOFT", "full" (a difference of the whole weight), "norm", ...; "": unknown.
        ranks: Their ranks, ascending; none where the form has none.
        alphas: Their alphas, ascending; none where the file has none.
        layers: How many there are.
    """

    part: str
    kind: Literal["linear", "convolution"]
    form: str
    ranks: tuple[int, ...]
    alphas: tuple[float, ...]
    layers: int


class LoraBlock(Struct, frozen=True, kw_only=True):
    """A resnet, transformer or sampler that a LoRA changes.

    Attributes:
        block: Its block, as merge-block-weighted numbers them: "IN04", "M00", "OUT11"; None: it has no number.
        path: What diffusers calls it: "down_blocks.1.attentions.0".
        layers: How many of its layers are changed.
        types: How many of each type.
    """

    block: str | None
    path: str
    layers: int
    types: dict[str, int]


class Lora(Struct, frozen=True, kw_only=True):
    """What a LoRA, or a relative of one, consists of.

    Attributes:
        format: Whose names it has; None: no known tool's.
        forms: The forms of its layers, those of most first.
        dora: Whether it has magnitudes too (DoRA).
        rank: The highest rank of the first group, the UNet's linear layers if there are any; None where the form has none.
        alpha: The highest alpha there; None where the file does not have it.
        groups: All layers, by model, kind and form.
        layers: How many there are.
        text_encoders: The text encoders that it changes.
        types: The UNet's layers by type: "self-attention", "cross-attention", "feed-forward", "proj_in/out", "resnets", "samplers",
            "time embedding", "conv_in/out", "temporal", "other".
        blocks: The UNet's layers by resnet, transformer and sampler, as far as a UNet of the catalog has them.
        faults: Problems of the file itself, a sentence each: a matrix is missing, two have different ranks, the prefix is unknown.
    """

    format: LoraFormat | None
    forms: tuple[str, ...]
    dora: bool = False
    rank: int | None
    alpha: float | None
    groups: tuple[LoraGroup, ...]
    layers: int
    text_encoders: tuple[str, ...] = ()
    types: dict[str, int] = {}
    blocks: tuple[LoraBlock, ...] = ()
    faults: tuple[str, ...] = ()


class CheckpointPart(Struct, frozen=True, kw_only=True):
    """One of the models in a checkpoint.

    Attributes:
        name: What it is: "unet", "vae", "text_encoder", "ema", "other".
        prefix: What the names of its tensors start with; "" where nothing does.
        tensors: How many tensors it has.
        params: How many numbers they hold; of quantized weights, what they are in the model.
        bytes_by_dtype: What they take, by dtype as the file writes it ("F16").
        quantization: How its quantized weights are stored: "NF4 (bitsandbytes)"; None: none is known to be quantized.
    """

    name: str
    prefix: str
    tensors: int
    params: int
    bytes_by_dtype: dict[str, int]
    quantization: str | None = None


class Checkpoint(Struct, frozen=True, kw_only=True):
    """What a checkpoint is, and why.

    Attributes:
        name: The file, or the place on the hub.
        files: How many files it has.
        bytes: What its tensors take.
        tensors: How many tensors it has.
        params: How many numbers they hold.
        content: What it contains: "pipeline" is a UNet with other models beside it.
        layout: How its tensors are named: as diffusers names them, or as the original code and ComfyUI do; None: as neither.
        class_name: The diffusers class of its UNet, ControlNet or adapter; None where the header does not show it.
        family: What it belongs to, as the catalog calls it.
        models: The models of the catalog whose structure it has, the one that its family is known by first; of a LoRA, those that all
            its UNet layers fit.
        summary: What it is, in one sentence.
        parts: The models in it.
        evidence: What in the header says so, a sentence each.
        untold: What is not in the header, with the assumed value, a sentence each.
        config: The UNet's config, as far as names and shapes tell it; None where they do not.
        metadata: The texts that its writer put beside the tensors.
        lora: What it changes, and how, if it is a LoRA.
    """

    schema: Literal["unetinspect.checkpoint/1"] = "unetinspect.checkpoint/1"
    name: str
    files: int
    bytes: int
    tensors: int
    params: int
    content: Content
    layout: Layout | None
    class_name: str | None
    family: str | None
    models: tuple[str, ...]
    summary: str
    parts: tuple[CheckpointPart, ...]
    evidence: tuple[str, ...]
    untold: tuple[str, ...] = ()
    config: dict[str, Any] | None = None
    metadata: dict[str, str] = {}
    lora: Lora | None = None


class Name(Struct, frozen=True, kw_only=True):
    """One module or tensor, and what each tool calls it; None where a tool has no name for it.

    Attributes:
        path: What diffusers calls it: a module's path in `named_modules()`, a tensor's key in `state_dict()`.
        kind: Which of the two it is.
        class_name: The module's class; of a tensor, that of its module.
        shape: The tensor's shape, None for a module.
        original: What the original code (CompVis, SGM) and ComfyUI call it: "input_blocks.4.1".
        comfyui: The same with the prefix of a whole checkpoint: "model.diffusion_model.input_blocks.4.1".
        block: The block of merge-block-weighted and LoRA Block Weight: "IN04", "M00", "OUT11".
        kohya: Its prefix of ".lora_down.weight", ".lora_up.weight" and ".alpha" in a LoRA of kohya-ss, where one can train it.
        peft: Its prefix of ".lora_A.weight" and ".lora_B.weight" in a LoRA of diffusers and PEFT, likewise.
        processor: The key of its attention processor in `unet.attn_processors`.
        ip_adapter: The number of a cross-attention layer in an IP-Adapter's keys, "1.to_k_ip.weight".
    """

    path: str
    kind: Literal["module", "tensor"]
    class_name: str
    shape: Shape | None = None
    original: str | None = None
    comfyui: str | None = None
    block: str | None = None
    kohya: str | None = None
    peft: str | None = None
    processor: str | None = None
    ip_adapter: int | None = None
