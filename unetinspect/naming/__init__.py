"""The names that one module or tensor of a UNet goes by: diffusers', the original code's, and those of the tools around them.

Works on a record alone. What a tool calls a module follows from the module tree; a name that does not follow is None.
"""

from __future__ import annotations

from unetinspect.naming.all_names import absent, by_rule, items_of, names_of, processor_layers
from unetinspect.naming.lookup import NameIndex, find_names

__all__ = ["NameIndex", "absent", "by_rule", "find_names", "items_of", "names_of", "processor_layers"]
