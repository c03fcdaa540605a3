"""What a device took for a pass: its time and memory, whole and stage by stage."""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

from unetinspect.record.sections import Role

AttentionMode = Literal["sdpa", "math", "slicing"]


class Spread(Struct, frozen=True, kw_only=True):
    """The times of the repeats, in milliseconds.

    Attributes:
        median: Half of the repeats took no longer.
        low: The 10th percentile.
        high: The 90th percentile.
    """

    median: float
    low: float
    high: float


class StageProfile(Struct, frozen=True, kw_only=True):
    """One stage, measured. Bytes are None where the device counts none.

    Attributes:
        name: "down_blocks.0", "mid_block", "time_embedding".
        role: Where it stands in the U.
        class_name: Its class.
        ms: Its time in one pass, of all its calls together.
        share: Of the sum of all stages' medians, from 0 to 1.
        macs: Multiply-accumulates of everything that ran in it.
        tflops: `2 * macs` over the median, in 10^12 per second.
        matrix_share: `tflops` over the rate of a large matrix product.
        allocated_bytes: What lived at its end of what the pass had made.
        peak_bytes: The most that lived at once while it ran, of what the pass had made.
        activation_bytes: The estimate of `peak_bytes`, from the trace; None where attention is not sdpa.
    """

    name: str
    role: Role
    class_name: str
    ms: Spread
    share: float
    macs: int
    tflops: float
    matrix_share: float
    allocated_bytes: int | None
    peak_bytes: int | None
    activation_bytes: int | None


class Profile(Struct, frozen=True, kw_only=True):
    """A pass, measured on a device, with random weights. Bytes are None where the device counts none.

    Attributes:
        device: "cuda:0".
        device_name: What the device calls itself.
        dtype: The dtype of the weights and of the floating-point inputs.
        attention: How attention ran: torch's fused kernels, its math attention, or diffusers' attention slicing.
        compiled: Whether each stage was compiled.
        channels_last: Whether weights and inputs had their channels last in memory.
        matmul_allow_tf32: Whether matrix products in float32 could use TF32.
        cudnn_allow_tf32: Whether convolutions in float32 could use TF32.
        warmup: Passes of each kind that were run first, and not counted.
        repeats: Passes of each kind that were timed.
        forward_ms: The pass, without hooks.
        hooked_forward_ms: The pass with the hooks that time the stages.
        stages_sum_ms: The sum of the stages in one pass, the median of the repeats.
        hooks_cost_ms: What the hooks add: the median of the hooked pass less that of the pass without hooks.
        macs: Multiply-accumulates of the pass.
        flops: `2 * macs`.
        tflops: `flops` over the median of `forward_ms`, in 10^12 per second.
        matrix_tflops: What a large matrix product in this dtype reached on this device just before.
        matrix_share: `tflops / matrix_tflops`.
        weight_bytes: What the parameters take.
        input_bytes: What the inputs take.
        allocated_bytes: What was allocated before the pass: weights, buffers, inputs, workspaces that torch keeps.
        peak_allocated_bytes: The most that was allocated at once during a pass without hooks, beyond `allocated_bytes`.
        peak_activation_bytes: The same without what kernels took for themselves while they ran (workspaces of convolutions);
            None where the pass is compiled.
        estimated_peak_bytes: The trace's estimate of it, `totals.peak_activation_bytes`, for math attention that with maps;
            None for attention slicing.
        estimate_error: `estimated_peak_bytes / peak_allocated_bytes - 1`.
        stages: In execution order.
    """

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
    allocated_bytes: int | None
    peak_allocated_bytes: int | None
    peak_activation_bytes: int | None = None
    estimated_peak_bytes: int | None
    estimate_error: float | None
    stages: tuple[StageProfile, ...]
