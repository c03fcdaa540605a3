"""Watches one forward pass of one module: which modules ran, which data went where, which attention was computed.

Imports torch; knows no UNet class, no config and no block name.
"""

from unetinspect.observe.watch import ForwardRaisedError, Observation, watch_forward

__all__ = ["ForwardRaisedError", "Observation", "watch_forward"]
