"""What can be plugged into a UNet, and whether something fits."""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

from unetinspect.record.run import Shape

PortKind = Literal["controlnet", "t2i-adapter", "ip-adapter"]


class Port(Struct, frozen=True, kw_only=True):
    """A tensor that can be plugged into the UNet from outside.

    Attributes:
        kind: What plugs in there.
        name: The argument of `forward`, with its place in the list; for IP-Adapter's weights, their key: "1.to_k_ip".
        shape: What the UNet takes there at this size; of a weight, (out_features, in_features).
        joins: The module whose output it is added to, or the attention layer that reads it.
        stage: The stage of that module.
    """

    kind: PortKind
    name: str
    shape: Shape
    joins: str
    stage: str


class PortFit(Struct, frozen=True, kw_only=True):
    """One tensor: what the UNet takes, and what it would be given.

    Attributes:
        name: The port, or the input that both are given.
        takes: The shape that the UNet takes, None: it has no such port.
        given: The shape that it is given, None: it is given none.
        fits: Whether the one can be added to the other; of an input, whether both take the same.
        reason: Why they do not fit, None where they do.
    """

    name: str
    takes: Shape | None
    given: Shape | None
    fits: bool
    reason: str | None = None


class Fit(Struct, frozen=True, kw_only=True):
    """Whether a ControlNet or T2I-Adapter fits a UNet, tensor by tensor.

    Attributes:
        name: What would be plugged in.
        class_name: Its class.
        fits: Whether every tensor fits.
        rows: Each tensor that one gives or the other takes.
    """

    name: str
    class_name: str
    fits: bool
    rows: tuple[PortFit, ...]
