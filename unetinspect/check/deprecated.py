"""Names that diffusers still takes and no longer writes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from unetinspect.check.words import joined
from unetinspect.record.check import Finding
from unetinspect.unets.base import is_list

# `get_down_block` and `get_up_block` of unet_2d_blocks.py cut it off; the classes of the other modules do not.
_PREFIX = "UNetRes"
_CLASSES = ("AudioLDM2UNet2DConditionModel", "ControlNetModel", "ControlNetUnionModel", "UNet2DConditionModel", "UNet2DModel")
# The aliases of unet_dreamlite.py.
_DREAMLITE = {
    "CrossAttnDownRemoveSelfAttnBlock2D": "DreamLiteCrossAttnNoSelfAttnDownBlock2D",
    "CrossAttnDownBlock2D": "DreamLiteCrossAttnDownBlock2D",
    "DownBlock2D": "DreamLiteDownBlock2D",
    "UNetMidBlock2DCrossAttn": "DreamLiteUNetMidBlock2DCrossAttn",
    "CrossAttnUpRemoveSelfAttnBlock2D": "DreamLiteCrossAttnNoSelfAttnUpBlock2D",
    "CrossAttnUpRemoveSelfAttnBlock2DV1": "DreamLiteCrossAttnNoSelfAttnUpBlock2D",
    "CrossAttnUpBlock2D": "DreamLiteCrossAttnUpBlock2D",
    "UpBlock2D": "DreamLiteUpBlock2D",
}


def find_deprecated(class_name: str, values: Mapping[str, Any], problems: Sequence[str]) -> Iterator[Finding]:
    """Find block types under names that they once had. One that is no block under its new name either is a problem already."""
    for key in ("down_block_types", "mid_block_type", "up_block_types"):
        value = values.get(key)
        kinds = dict.fromkeys(str(kind) for kind in (value if is_list(value) else [value]))
        today = {kind: name for kind in kinds if (name := _name_of_today(class_name, key, kind)) is not None}
        taken = {kind: name for kind, name in today.items() if not any(repr(kind) in problem for problem in problems)}
        if taken:
            what = f"{key} holds {joined(list(taken))}, which diffusers still takes for {joined(list(taken.values()))}"
            yield Finding(about="config", kind="deprecated", what=what, where=(key,), advice=f"write {joined(list(taken.values()))}")


def _name_of_today(class_name: str, key: str, kind: str) -> str | None:
    """Return what a block type is called today; None: just so."""
    if class_name == "DreamLiteUNetModel":
        return _DREAMLITE.get(kind)
    takes_prefix = class_name in _CLASSES and key != "mid_block_type" and kind.startswith(_PREFIX)
    return kind.removeprefix(_PREFIX) if takes_prefix else None
