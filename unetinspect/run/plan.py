"""One forward pass, decided: its sizes, its batch, its inputs. No torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from msgspec import Struct

from unetinspect.errors import ConfigError, UnetInspectError, UsageError
from unetinspect.source.loaded import LoadedModel
from unetinspect.unets import Builder, InputSpec, Plan, builder_for
from unetinspect.unets.request import Request
from unetinspect.unets.sizes import Sizes, VaeScale, decide_cfg, decide_sizes

SEE_CONFIG = "`unetinspect config MODEL` shows every key, with the defaults that were filled in"


class Work(Struct, frozen=True, kw_only=True):
    """One forward pass, decided.

    Attributes:
        builder: The builder of the class.
        request: What the user asked for.
        sizes: The sizes, each with its reason.
        cfg: Whether guidance doubles the batch.
        cfg_reason: Why it does, or does not.
        plan: The sizes as builders take them.
        specs: The arguments of `forward`.
        plugged: The name of what is plugged in.
    """

    builder: Builder
    request: Request
    sizes: Sizes
    cfg: bool
    cfg_reason: str
    plan: Plan
    specs: tuple[InputSpec, ...]
    plugged: str | None = None

    @property
    def frame_axes(self) -> dict[str, int]:
        """For each argument that has frames, which of its axes counts them."""
        return {spec.name: spec.axes.index("frames") for spec in self.specs if "frames" in spec.axes}


class InputsError(ConfigError):
    """Raised when no inputs can be made of what a config holds: a width is null, or a word."""


def plan_work(model: LoadedModel, class_name: str, config: Mapping[str, Any], request: Request) -> Work:
    """Decide a forward pass. `config` holds every key, defaults filled in.

    Raises:
        InputsError: No inputs can be made of what the config holds.
        UsageError: The request does not fit the UNet.
    """
    try:
        return _plan_work(model, class_name, config, request)
    except UnetInspectError:
        raise
    except Exception as error:  # a builder takes widths for numbers: whether they are is seen here
        raise InputsError(f"no inputs for {model.name} follow from its config: {error}", hint=SEE_CONFIG) from error


def _plan_work(model: LoadedModel, class_name: str, config: Mapping[str, Any], request: Request) -> Work:
    builder = builder_for(class_name)
    cfg, reason = decide_cfg(request, builder.condition(config))
    sizes = decide_sizes(request, config, builder, VaeScale(model.vae_scale_factor, model.vae_scale_from), model.medium)
    plan = Plan(
        batch=2 * request.batch if cfg else request.batch,
        size=sizes.sample_size,
        tokens=request.tokens,
        frames=sizes.frames.value if sizes.frames else None,
    )
    specs = builder.inputs(config, plan)
    if request.tokens is not None and not any("tokens" in spec.axes for spec in specs):
        raise UsageError(f"--tokens: none of the inputs of {model.name} has tokens", hint="leave --tokens out")
    return Work(builder=builder, request=request, sizes=sizes, cfg=cfg, cfg_reason=reason, plan=plan, specs=tuple(specs))
