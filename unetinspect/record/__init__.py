"""The `Trace`: one observed forward pass of one UNet, as plain frozen records, and its JSON form.

Nothing here knows torch, diffusers or how anything is shown. Shapes are tuples of integers in diffusers' order,
counts and bytes are integers, an absent value is None (`null`).
"""

from unetinspect.record.check import Check, Expectation, Finding, KeyMeaning, NearSize, SizeCheck, TensorDifference, WeightsCheck
from unetinspect.record.checkpoint import Checkpoint, CheckpointPart, Content, Layout
from unetinspect.record.diff import DIFF_SCHEMA, Diff
from unetinspect.record.explanation import ErrorExplanation, ErrorExplanations, ModelMatch, NumberMeaning
from unetinspect.record.names import Name
from unetinspect.record.ports import Fit, Port, PortFit, PortKind
from unetinspect.record.profile import AttentionMode, Profile, Spread, StageProfile
from unetinspect.record.run import Constant, InputInfo, Medium, ModelInfo, OutputInfo, Run, Shape, Source, TensorInfo
from unetinspect.record.sections import (
    Attention,
    AttentionCounts,
    AttentionKind,
    ChangeKind,
    MacsByKind,
    Module,
    Role,
    Skip,
    SkipChange,
    SkipCounts,
    Stage,
    Totals,
    Uncounted,
)
from unetinspect.record.sweep import LargestMap, SweepPoint
from unetinspect.record.trace import SCHEMA, Envelope, Trace, to_json

__all__ = [
    "DIFF_SCHEMA",
    "SCHEMA",
    "Attention",
    "AttentionCounts",
    "AttentionKind",
    "AttentionMode",
    "ChangeKind",
    "Check",
    "Checkpoint",
    "CheckpointPart",
    "Constant",
    "Content",
    "Diff",
    "Envelope",
    "ErrorExplanation",
    "ErrorExplanations",
    "Expectation",
    "Finding",
    "Fit",
    "InputInfo",
    "KeyMeaning",
    "LargestMap",
    "Layout",
    "MacsByKind",
    "Medium",
    "ModelInfo",
    "ModelMatch",
    "Module",
    "Name",
    "NearSize",
    "NumberMeaning",
    "OutputInfo",
    "Port",
    "PortFit",
    "PortKind",
    "Profile",
    "Role",
    "Run",
    "Shape",
    "SizeCheck",
    "Skip",
    "SkipChange",
    "SkipCounts",
    "Source",
    "Spread",
    "Stage",
    "StageProfile",
    "SweepPoint",
    "TensorDifference",
    "TensorInfo",
    "Totals",
    "Trace",
    "Uncounted",
    "WeightsCheck",
    "to_json",
]
