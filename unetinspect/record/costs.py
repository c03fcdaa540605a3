"""The costs of a pass: estimated at each size of a sweep, or measured on a device, whole and stage by stage."""

from __future__ import annotations

from typing import ClassVar, Literal

from msgspec import Struct

from unetinspect.record.run import Excerpt, Run, Shape
from unetinspect.record.sections import Attention, MacsByKind, Role, Stage, Totals, TrainingMemory

AttentionMode = Literal["sdpa", "math", "slicing"]


class LargestMap(Excerpt, frozen=True, kw_only=True):
    """The attention map that takes, or would take, the most bytes; the first if several do.

    Attributes:
        shape: (batch * heads, query_tokens, key_tokens).
        bytes: Its bytes.
    """

    fields_of: ClassVar = (Attention,)

    path: str
    shape: tuple[int, int, int]
    bytes: int
    materialised: bool


class SweepPoint(Excerpt, frozen=True, kw_only=True):
    """One size and batch of a sweep: what the pass cost, or why it failed.

    Attributes:
        image_size: (height, width) in pixels; None if the VAE factor is unknown, for a signal, or if the pass failed before.
        sample_size: (height, width) of `sample`, (length,) of a signal; None if it is unknown.
        forward_batch: The batch of the pass; None if it failed.
        cfg: Whether classifier-free guidance doubled the batch; None if the pass failed.
        device: The device of the pass.
        tokens: Query tokens of the largest attention map; None without attention.
        largest_map: The largest attention map.
        output_shape: The shape of the output: some UNets return another size than that of their sample.
        fit_bytes: The memory in which the largest batch was to fit; None if the batch was given.
        fits: Whether the total is within `fit_bytes`; if not, `batch` is 1.
        error: Why it failed, in one sentence.
        hint: What would run instead.
    """

    fields_of: ClassVar = (Run, Totals)

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
    inference_bytes: int | None = None
    training: TrainingMemory | None = None
    fit_bytes: int | None = None
    fits: bool | None = None
    error: str | None = None
    hint: str | None = None

    @property
    def total_bytes(self) -> int | None:
        """The memory of the training step, if one was asked for, or else of the forward pass."""
        return self.training.total_bytes if self.training else self.inference_bytes


class Spread(Struct, frozen=True, kw_only=True):
    """The times of the repeats, in milliseconds.

    Attributes:
        median: The 50th percentile.
        low: The 10th percentile.
        high: The 90th percentile.
    """

    median: float
    low: float
    high: float


class StageProfile(Excerpt, frozen=True, kw_only=True):
    """One stage, measured.

    Attributes:
        ms: Its time in one pass, of all its calls together.
        share: Its share of the sum of all stages' medians, from 0 to 1.
        tflops: `2 * macs` over the median, in 10^12 per second.
        matrix_share: `tflops` over the rate of a large matrix product.
        allocated_bytes: Bytes allocated at its end, beyond those before the pass.
        peak_bytes: Peak of the allocated bytes while it ran, beyond those before the pass.
        activation_bytes: The estimate of `peak_bytes`, from the trace; None if attention is not sdpa.
    """

    fields_of: ClassVar = (Stage,)

    name: str
    role: Role
    class_name: str
    ms: Spread
    share: float
    macs: int
    tflops: float
    matrix_share: float
    allocated_bytes: int
    peak_bytes: int
    activation_bytes: int | None


class Profile(Excerpt, frozen=True, kw_only=True):
    """A pass, measured on a device, with random weights.

    Attributes:
        device_name: The name of the device in its driver.
        attention: How attention ran: torch's fused kernels, its math attention, or diffusers' attention slicing.
        compiled: Whether each stage was compiled.
        channels_last: Whether weights and inputs had their channels last in memory.
        matmul_allow_tf32: Whether matrix products in float32 could use TF32.
        cudnn_allow_tf32: Whether convolutions in float32 could use TF32.
        warmup: Passes of each kind that ran first and were not timed.
        repeats: Passes of each kind that were timed.
        forward_ms: The pass without hooks.
        hooked_forward_ms: The pass with the hooks that time the stages.
        stages_sum_ms: The sum of the stages in one pass, the median of the repeats.
        hooks_cost_ms: The median of the pass with hooks minus that of the pass without.
        tflops: `flops` over the median of `forward_ms`, in 10^12 per second.
        matrix_tflops: The rate of a large matrix product in this dtype, measured on this device just before.
        matrix_share: `tflops / matrix_tflops`.
        input_bytes: Bytes of the inputs.
        allocated_bytes: Bytes allocated before the pass: weights, buffers, inputs, workspaces that torch keeps.
        peak_allocated_bytes: Peak of the bytes allocated during a pass without hooks, beyond `allocated_bytes`.
        peak_activation_bytes: The same without the workspaces of kernels (convolutions) while they run; None if compiled.
        estimated_peak_bytes: The trace's estimate of it: `totals.peak_activation_bytes`, for math attention that with maps;
            None for attention slicing.
        estimate_error: `estimated_peak_bytes / peak_allocated_bytes - 1`.
        stages: In execution order.
    """

    fields_of: ClassVar = (Run, Totals)

    device: str
    device_name: str
    dtype: str
    attention: AttentionMode
    compiled: bool
    channels_last: bool
    matmul_allow_tf32: bool
    cudnn_allow_tf32: bool
    warmup: int
    repeats: int
    forward_ms: Spread
    hooked_forward_ms: Spread
    stages_sum_ms: float
    hooks_cost_ms: float
    macs: int
    flops: int
    tflops: float
    matrix_tflops: float
    matrix_share: float
    weight_bytes: int
    input_bytes: int
    allocated_bytes: int
    peak_allocated_bytes: int
    peak_activation_bytes: int | None = None
    estimated_peak_bytes: int | None
    estimate_error: float | None
    stages: tuple[StageProfile, ...]
