"""The `Trace`: one observed forward pass of one UNet, as plain frozen records, and its JSON form.

Nothing here knows torch, diffusers or how anything is shown. Shapes are tuples of integers in diffusers' order,
counts and bytes are integers, an absent value is None (`null`).
"""

from unetinspect.record.run import InputInfo, ModelInfo, Run, Shape, Source, TensorInfo
from unetinspect.record.sections import (
    Attention,
    AttentionCounts,
    AttentionKind,
    MacsByKind,
    Module,
    Role,
    Skip,
    SkipCounts,
    Stage,
    Totals,
    Uncounted,
)
from unetinspect.record.trace import SCHEMA, Envelope, Trace, to_json

__all__ = [
    "SCHEMA",
    "Attention",
    "AttentionCounts",
    "AttentionKind",
    "Envelope",
    "InputInfo",
    "MacsByKind",
    "ModelInfo",
    "Module",
    "Role",
    "Run",
    "Shape",
    "Skip",
    "SkipCounts",
    "Source",
    "Stage",
    "TensorInfo",
    "Totals",
    "Trace",
    "Uncounted",
    "to_json",
]
