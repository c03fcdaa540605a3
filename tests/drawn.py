"""The records that drawings and comparisons are proved on: the U's that everybody knows, one of each class, and odd ones."""

from __future__ import annotations

from tests import kinds_other, kinds_plugs, kinds_video
from tests.tiny import KINDS, Config, traced_once
from unetinspect import Trace

KNOWN = ("sd15", "sdxl", "ddpm-cat-256", "svd-xt", "kandinsky-3")
_ODD = ("conditioned", "plain", "plain-no-mid-block", "skip-blocks", "k-blocks", "simple-cross-attention")
_OF_A_CLASS = {
    config["_class_name"]: config
    for kinds in (kinds_video.KINDS, kinds_plugs.KINDS, kinds_other.KINDS)
    for config in reversed(kinds.values())
}
DRAWN: dict[str, str | Config] = {
    **{name: name for name in (*KNOWN, "bk-sdm-tiny", "amused-512", "controlnet-sd15-canny", "maestro-150k")},
    **{name: KINDS[name] for name in _ODD},
    **_OF_A_CLASS,
}


def drawn(name: str) -> Trace:
    """Return one of these records, traced on meta once in a whole run."""
    return traced_once(DRAWN[name])
