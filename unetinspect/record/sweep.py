"""What a UNet costs at one size and batch of several."""

from __future__ import annotations

from msgspec import Struct

from unetinspect.record.run import Shape
from unetinspect.record.sections import MacsByKind


class LargestMap(Struct, frozen=True, kw_only=True):
    """The attention map that takes, or would take, the most bytes; of equals, the first.

    Attributes:
        path: The attention layer.
        shape: (batch * heads, query_tokens, key_tokens).
        bytes: Its bytes.
        materialised: Whether the pass held it in memory.
    """

    path: str
    shape: tuple[int, int, int]
    bytes: int
    materialised: bool


class SweepPoint(Struct, frozen=True, kw_only=True):
    """One size and batch of a sweep: what the pass cost, or why it failed. The costs are those of the record's `totals`.

    Attributes:
        image_size: (height, width) in pixels; None where no VAE factor is known, for a signal, or if the pass failed before.
        sample_size: (height, width) of `sample`, (length,) of a signal; None where the size asked for gives none.
        batch: The user's batch.
        forward_batch: The batch of the pass; None where it failed.
        cfg: Whether classifier-free guidance doubled the batch; None where it failed.
        frames: Frames of a video.
        device: Where it ran, or was to run.
        dtype: The dtype of weights and activations.
        freeu: The factors of FreeU, None where it is off.
        plugged: What was plugged in; its own costs are not in these.
        weight_bytes: Bytes of the UNet's parameters.
        tokens: Query tokens of the largest attention map; None where nothing attends.
        macs: Multiply-accumulates.
        macs_by_kind: What they are made of.
        flops: `2 * macs`.
        peak_activation_bytes: The most bytes of activations that lived at once.
        peak_activation_bytes_with_maps: The same, if fused attention held its maps.
        largest_map: The largest attention map.
        output_shape: What was returned: some UNets return another size than that of their sample.
        error: Why it failed, in one sentence.
        hint: What would run instead.
    """

    image_size: Shape | None
    sample_size: Shape | None
    batch: int
    forward_batch: int | None = None
    cfg: bool | None = None
    frames: int | None = None
    device: str
    dtype: str
    freeu: tuple[float, float, float, float] | None = None
    plugged: str | None = None
    weight_bytes: int | None = None
    tokens: int | None = None
    macs: int | None = None
    macs_by_kind: MacsByKind | None = None
    flops: int | None = None
    peak_activation_bytes: int | None = None
    peak_activation_bytes_with_maps: int | None = None
    largest_map: LargestMap | None = None
    output_shape: Shape | None = None
    error: str | None = None
    hint: str | None = None
