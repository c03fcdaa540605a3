"""What each UNet class's `forward` must be given, derived from its config alone. Nothing here knows torch.

One class, one builder, one file; `builder_for` finds it by the config's `_class_name`.
"""

from unetinspect.unets.base import Builder, InputSpec, Plan
from unetinspect.unets.registry import builder_for, plug_classes, supported_classes

__all__ = ["Builder", "InputSpec", "Plan", "builder_for", "plug_classes", "supported_classes"]
