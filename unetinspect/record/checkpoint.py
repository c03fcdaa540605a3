"""What a checkpoint is, by its header alone."""

from __future__ import annotations

from typing import Any, Literal

from msgspec import Struct

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
        params: How many numbers they hold.
        bytes_by_dtype: What they take, by dtype as the file writes it ("F16").
    """

    name: str
    prefix: str
    tensors: int
    params: int
    bytes_by_dtype: dict[str, int]


class Checkpoint(Struct, frozen=True, kw_only=True):
    """What a checkpoint is, and why.

    Attributes:
        name: The file, or the place on the hub.
        files: How many files it has.
        bytes: What its tensors take.
        tensors: How many tensors it has.
        params: How many numbers they hold.
        content: What it holds: "pipeline" is a UNet with other models beside it.
        layout: How its tensors are named: as diffusers names them, or as the original code and ComfyUI do; None: as neither.
        class_name: The diffusers class of its UNet, or of what is like one; None where no header tells.
        family: What it belongs to, as the catalog calls it.
        models: The models of the catalog whose structure it has, the one that its family is known by first.
        summary: What it is, in one sentence.
        parts: The models in it.
        evidence: What in the header says so, a sentence each.
        untold: What no header can tell, and what is taken in its place, a sentence each.
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
