"""What an error message means for a UNet: its numbers, the catalog models that have them, what to change.

One file for each kind of error; each knows its own messages by a pattern. None of it imports torch.
"""

from unetinspect.explain.explain import explain_error

__all__ = ["explain_error"]
