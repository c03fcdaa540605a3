"""The `Trace`: one observed forward pass of one UNet, as plain frozen records, and its JSON form.

Nothing here knows torch, diffusers or how anything is shown. Shapes are tuples of integers in diffusers' order,
counts and bytes are integers, an absent value is None (`null`).
"""

from unetinspect.record.run import Constant, InputInfo, Medium, ModelInfo, OutputInfo, Run, Shape, Source, TensorInfo
from unetinspect.record.sections import (
    Attention,
    AttentionCounts,
    AttentionKind,
    ChangeKind,
    Fit,
    MacsByKind,
    Module,
    Port,
    PortFit,
    PortKind,
    Role,
    Skip,
    SkipChange,
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
    "ChangeKind",
    "Constant",
    "Envelope",
    "Fit",
    "InputInfo",
    "MacsByKind",
    "Medium",
    "ModelInfo",
    "Module",
    "OutputInfo",
    "Port",
    "PortFit",
    "PortKind",
    "Role",
    "Run",
    "Shape",
    "Skip",
    "SkipChange",
    "SkipCounts",
    "Source",
    "Stage",
    "TensorInfo",
    "Totals",
    "Trace",
    "Uncounted",
    "to_json",
]
