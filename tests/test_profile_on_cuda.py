"""What only a GPU can show of a profile: that its stages add up, and that memory is what the trace estimates."""

from __future__ import annotations

from typing import Any

import pytest

from unetinspect.api import _load
from unetinspect.profile.profiling import ProfileOptions, profile_model
from unetinspect.record import Profile
from unetinspect.unets.request import make_request


def on_gpu(model: str, how: ProfileOptions, **request: Any) -> Profile:
    """Profile a bundled model on the first CUDA device."""
    return profile_model(_load(model, {}), make_request(**request), {}, how)[1]


@pytest.mark.cuda
def test_the_stages_add_up_to_the_forward() -> None:
    """Stable Diffusion 1.5 in half precision: the sum of its stages is within 5 % of the pass, on a GPU that does nothing else."""
    profile = on_gpu("sd15", ProfileOptions(), dtype="float16")

    assert profile.stages_sum_ms == pytest.approx(profile.forward_ms.median, rel=0.05)
    assert all(stage.ms.median > 0 for stage in profile.stages)
    assert profile.device == "cuda:0"


@pytest.mark.cuda
@pytest.mark.parametrize("dtype", ["float16", "float32"])
@pytest.mark.parametrize(("model", "res"), [("sd15", 256), ("sd15", 512), ("sd15", 768), ("sdxl", 512), ("sdxl", 768), ("sdxl", 1024)])
def test_the_peak_is_the_estimate(model: str, res: int, dtype: str) -> None:
    """What torch's allocator had handed out at most is within 5 % of what the trace on meta says, but for the kernels' own."""
    profile = on_gpu(model, ProfileOptions(repeats=1, warmup=2), res=res, dtype=dtype)

    assert profile.peak_activation_bytes == pytest.approx(profile.estimated_peak_bytes, rel=0.05)
    assert (profile.peak_allocated_bytes or 0) >= (profile.peak_activation_bytes or 0)
    assert max(stage.peak_bytes or 0 for stage in profile.stages) == pytest.approx(profile.peak_allocated_bytes, rel=0.05)
