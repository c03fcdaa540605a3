"""Small configs of the video UNets; a `MotionAdapter` runs only in a UNet of published size (tests/test_motion_adapter.py)."""

from __future__ import annotations

from tests.tiny import kinds

KINDS = kinds("video")
MOTION = KINDS["motion"]
