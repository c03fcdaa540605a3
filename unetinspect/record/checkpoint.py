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
    "vae",
    "text_encoder",
    "textual_inversion",
    "transformer",
    "unknown",
]


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
        models: The models of the catalog whose structure it has, the one that its family is known by first.
        summary: What it is, in one sentence.
        parts: The models in it.
        evidence: What in the header says so, a sentence each.
        untold: What is not in the header, with the assumed value, a sentence each.
        config: The UNet's config, as far as names and shapes tell it; None where they do not.
        metadata: The texts that its writer put beside the tensors.
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
