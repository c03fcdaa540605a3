"""What a UNet has to capture: a trace of what its config builds, and the live modules by the paths in it. Imports torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import msgspec
from torch import nn

from unetinspect.capturing.taps import FeatureTap, MapTap, SkipTap, Tap
from unetinspect.errors import ConfigError, UsageError, nearest_names
from unetinspect.observe.assemble import stage_finder_of
from unetinspect.record import Attention, Skip, Source, Trace
from unetinspect.record.selection import no_match, with_grids
from unetinspect.run.live import LiveModule
from unetinspect.run.tracer import Tracer
from unetinspect.source.loaded import LoadedModel
from unetinspect.unets.request import make_request

_WRAPPED = "_orig_mod"
_ADAPTED = "encoder_hid_proj."


@dataclass(frozen=True)
class Plan:
    """The parts of a live UNet that taps can name.

    Attributes:
        root: The UNet, without the wrapper of `torch.compile`.
        modules: Its modules by path, as `unetinspect tree` prints them.
        record: A trace of what its config builds.
        is_compiled: Whether the UNet, or a module in it, is compiled.
    """

    root: nn.Module
    modules: Mapping[str, nn.Module]
    record: Trace
    is_compiled: bool

    @classmethod
    def of(cls, target: Any, record: Trace | None) -> Plan:
        """Plan the UNet of a pipeline, or a UNet itself; `record` is a trace of it, if there is one.

        A copy of the config is traced, never the live module: that would run the user's hooks and processors.

        Raises:
            UsageError: The target has no UNet.
            ConfigError: It differs from its config.
        """
        unet = getattr(target, "unet", target)
        if not isinstance(unet, nn.Module):
            raise UsageError(f"cannot capture from {type(target).__name__}: it has no UNet", hint="pass a pipeline with a .unet, or a UNet")
        live = LiveModule(unet)
        if record is None:
            # The projection of a loaded IP-Adapter is not built from the config.
            adapted = live.model.config.get("encoder_hid_dim_type") == "ip_image_proj"
            config = {**live.model.config, "encoder_hid_dim_type": None} if adapted else live.model.config
            record = _record_of(live.model.name, msgspec.json.encode(config, enc_hook=str))
        # A module compiled with `torch.compile` is wrapped: the wrapper comes first, and has no path of its own.
        modules = {".".join(name for name in path.split(".") if name != _WRAPPED): module for path, module in live.module.named_modules()}
        compiled = any(hasattr(module, _WRAPPED) or getattr(module, "_compiled_call_impl", None) for module in unet.modules())
        plan = cls(live.module, modules, record, compiled)
        plan.check()
        return plan

    def check(self) -> None:
        """Check that the live UNet has the attention layers and skips of the record, and no other layers.

        Raises:
            ConfigError: It does not; the message has the path.
        """
        needed = [*(layer.path for layer in self.record.attentions), *(skip.target for skip in self.record.skips)]
        missing = next((path for path in needed if path not in self.modules), None)
        known = {module.path for module in self.record.modules}
        # The projections of loaded IP-Adapters have layers too; they are not built from the config.
        layers = (path for path, module in self.modules.items() if hasattr(type(module), "get_processor") and not path.startswith(_ADAPTED))
        added = next((path for path in layers if path not in known), None)
        if missing is not None or added is not None:
            what = (
                f"has no '{missing}', which its config builds" if missing is not None else f"has '{added}', which its config does not build"
            )
            raise ConfigError(f"the {type(self.root).__name__} {what}", hint="pass plan=unetinspect.trace(unet)")

    def stage_of(self, path: str) -> str:
        """Return the stage of a module."""
        return stage_finder_of(self.root)(path) or path

    def layers(self, tap: MapTap) -> dict[str, Attention]:
        """Return the attention layers that a tap takes, by path; at which of them the size fits is known when they run.

        Raises:
            UsageError: There are none, or one is torch's `MultiheadAttention`.
        """
        tap.selection.check(self.record)
        layers = {layer.path: layer for layer in self.record.attentions if tap.selection.takes(layer)}
        if not layers:
            raise UsageError(no_match(with_grids(self.record), tap.selection)[0], hint="`unetinspect attn` lists the layers")
        closed = next((path for path in layers if isinstance(self.modules[path], nn.MultiheadAttention)), None)
        if closed is not None:
            raise UsageError(
                f"{closed} is torch's MultiheadAttention, whose maps cannot be captured", hint="select other layers: kind=, paths="
            )
        return layers

    def features(self, tap: FeatureTap) -> dict[str, nn.Module]:
        """Return the modules of a tap.

        Raises:
            UsageError: One of them is not in the UNet.
        """
        unknown = next((path for path in tap.paths if path not in self.modules), None)
        if unknown is not None:
            raise UsageError(f"{self.record.model.class_name} has no module '{unknown}'", hint=self._near(unknown, [*self.modules]))
        return {path: self.modules[path] for path in tap.paths}

    def skips(self, tap: SkipTap) -> list[Skip]:
        """Return the skips of a tap.

        Raises:
            UsageError: There are none.
        """
        found = self.record.skips
        for name, wanted in (("source", tap.source), ("target", tap.target), ("index", tap.index)):
            known = [getattr(skip, name) for skip in self.record.skips]
            unknown = next((value for value in wanted if value not in known), None)
            if unknown is not None:
                what = f"{self.record.model.class_name} has no skip with {name} {unknown!r}"
                raise UsageError(what, hint=self._near(str(unknown), list(dict.fromkeys(map(str, known)))))
            found = tuple(skip for skip in found if not wanted or getattr(skip, name) in wanted)
        if not found:
            raise UsageError(f"no skip of this {self.record.model.class_name} is selected", hint="`unetinspect skips` lists them")
        return list(found)

    def _near(self, name: str, known: list[str]) -> str:
        close = nearest_names(name, known)
        return f"did you mean {', '.join(close)}?" if close else "`unetinspect tree` and `unetinspect skips` list the names"


@lru_cache(maxsize=8)
def _record_of(name: str, config: bytes) -> Trace:
    """Trace a config, once for all captures of UNets that have it."""
    model = LoadedModel(name=name, config=msgspec.json.decode(config), source=Source(kind="dict", location=name))
    return Tracer(model).observe(make_request(device="meta"))


def check_taps(taps: tuple[Any, ...]) -> None:
    """Check that there are taps, and nothing else.

    Raises:
        UsageError: There are none, or one is something else.
    """
    other = next((tap for tap in taps if not isinstance(tap, Tap)), None)
    if not taps or other is not None:
        what = "nothing to capture" if not taps else f"cannot capture a {type(other).__name__}"
        raise UsageError(what, hint='capture(pipe, maps(kind="cross"), features("mid_block"), skips())')
