"""Every name that one module or tensor of a UNet goes by."""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

from unetinspect.record.run import Shape


class Name(Struct, frozen=True, kw_only=True):
    """One module or tensor, and what each tool calls it; None where a tool has no name for it.

    Attributes:
        path: What diffusers calls it: a module's path in `named_modules()`, a tensor's key in `state_dict()`.
        kind: Which of the two it is.
        class_name: The module's class; of a tensor, that of the module that holds it.
        shape: The tensor's shape, None for a module.
        original: What the original code (CompVis, SGM) and ComfyUI call it: "input_blocks.4.1".
        comfyui: The same as it stands in a checkpoint: "model.diffusion_model.input_blocks.4.1".
        block: The block of merge-block-weighted and LoRA Block Weight: "IN04", "M00", "OUT11".
        kohya: What stands before ".lora_down.weight", ".lora_up.weight" and ".alpha" in a LoRA of kohya-ss, where one can train it.
        peft: What stands before ".lora_A.weight" and ".lora_B.weight" in a LoRA of diffusers and PEFT, likewise.
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
