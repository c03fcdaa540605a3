"""The `Trace`: one observed forward pass of one UNet, as plain frozen records, and its JSON form.

Nothing here knows torch, diffusers or how anything is shown. Shapes are tuples of integers in diffusers' order,
counts and bytes are integers, an absent value is None (`null`).
"""

from unetinspect.record.check import (
    Check,
    ErrorExplanation,
    ErrorExplanations,
    Expectation,
    Finding,
    Fit,
    KeyMeaning,
    ModelMatch,
    NearSize,
    NumberMeaning,
    OtherCause,
    PortFit,
    SizeCheck,
    TensorDifference,
    WeightsCheck,
)
from unetinspect.record.checkpoint import Checkpoint, CheckpointPart, Content, Layout, Lora, LoraBlock, LoraGroup, Name
from unetinspect.record.costs import AttentionMode, LargestMap, Profile, Spread, StageProfile, SweepPoint
from unetinspect.record.diff import DIFF_SCHEMA, Diff
from unetinspect.record.run import Confidence, Constant, InputInfo, Medium, ModelInfo, OutputInfo, Run, Shape, Source, TensorInfo
from unetinspect.record.sections import (
    Attention,
    AttentionCounts,
    AttentionKind,
    ChangeKind,
    MacsByKind,
    Module,
    Optimizer,
    Port,
    PortKind,
    Role,
    Skip,
    SkipChange,
    SkipCounts,
    Stage,
    Totals,
    TrainingMemory,
    Uncounted,
)
from unetinspect.record.trace import SCHEMA, Envelope, Trace, to_json
