"""What is asked for, resolved: a config with overrides and defaults, and the sizes and inputs of one forward pass.

No torch. diffusers is imported only for a class that is not known yet.
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from functools import cache
from importlib import import_module
from typing import Any, NamedTuple

from msgspec import Struct
from msgspec.structs import replace

from unetinspect.errors import ConfigError, UnetInspectError, UsageError
from unetinspect.record import InputInfo, ModelInfo, Run, Trace
from unetinspect.source.loaded import LoadedModel
from unetinspect.unets import Builder, Plan, builder_for, supported_classes
from unetinspect.unets.builder import Adapted, Given, words_in
from unetinspect.unets.request import Request
from unetinspect.unets.sizes import decide_run
from unetinspect.unets.unknown_keys import explain_key
from unetinspect.units import joined

_KEYS_SHOWN = 4
SEE_CONFIG = "`unetinspect config MODEL` shows every key, with its default"


class ResolvedConfig(NamedTuple):
    """A config with a value for every key of its class.

    Attributes:
        class_name: The diffusers class.
        values: Every key of the class, defaults filled in.
        defaults: The keys that were filled in.
        ignored: The given keys that the class does not know.
        overridden: The keys that the caller overrode.
        notes: What was changed so that diffusers can run it.
    """

    class_name: str
    values: dict[str, Any]
    defaults: tuple[str, ...]
    ignored: tuple[str, ...]
    overridden: tuple[str, ...]
    notes: tuple[str, ...] = ()


def keys_of(class_name: Any) -> dict[str, Any]:
    """Return the config keys of a class, each with its default, in the order of its constructor.

    Raises:
        ConfigError: The name is missing, the class cannot be traced, or this diffusers does not have it.
    """
    parameters = list(inspect.signature(diffusers_class(class_name).__init__).parameters.values())[1:]
    return {parameter.name: plain(parameter.default) for parameter in parameters}


def resolve_config(
    config: Mapping[str, Any],
    overrides: Mapping[str, Any] | None = None,
    *,
    adapt: bool = True,
    known_keys: Callable[[Any], dict[str, Any]] = keys_of,
) -> ResolvedConfig:
    """Apply the overrides to a config and fill in the defaults of its class.

    With `adapt`, a config that diffusers cannot run is replaced by the one that its builder makes of it. `known_keys` returns and
    raises what `keys_of` does.

    Raises:
        ConfigError: It names no class, or one that cannot be traced.
        UsageError: The class has no key of an override's name: a typing error must not be ignored.
    """
    overrides, given = overrides or {}, config
    config = plain({**config, **overrides})
    try:
        keys = known_keys(config.get("_class_name"))
    except ConfigError as error:
        if "_class_name" in config or not config:
            raise
        raise ConfigError(f"{error.message}; its keys are {joined(list(config)[:_KEYS_SHOWN])}", hint=error.hint) from None
    class_name = config["_class_name"]
    for key in overrides:
        if key != "_class_name" and key not in keys:
            explained = explain_key(key, keys, given=overrides)
            advice = explained.advice(()) if explained.change or explained.meant else ""
            meant = f"{advice}{' ' if advice.endswith('?') else '; '}" if advice else ""
            raise UsageError(f"{class_name} has no config key {key}", hint=f"{meant}`unetinspect config` lists them all")
    ignored = tuple(key for key in config if key not in keys and not key.startswith("_"))
    if ignored and not any(key in keys for key in given):
        raise ConfigError(
            f"not a config of {class_name}: it has none of its keys, but {joined(ignored[:_KEYS_SHOWN])}",
            hint="give the config of the UNet itself: its config.json, or the section of the file that describes it",
        )
    if unread := [key for key in keys if any("${" in text for text in words_in(config.get(key)))]:
        raise ConfigError(
            f"{unread[0]} is {config[unread[0]]}, which this file does not resolve",
            hint=f"--set {unread[0]}=VALUE, or resolve the file first",
        )
    adapted = builder_for(class_name).adapted({**keys, **config}) if adapt else Adapted()
    config = {**config, **adapted.changes}
    if config["_class_name"] != class_name:
        keys = known_keys(config["_class_name"])
    return ResolvedConfig(
        class_name=config["_class_name"],
        values={key: config.get(key, default) for key, default in keys.items()},
        defaults=tuple(key for key in keys if key not in config),
        ignored=ignored,
        overridden=tuple(overrides),
        notes=adapted.notes,
    )


def diffusers_class(class_name: str) -> type[Any]:
    """Import a class.

    Raises:
        ConfigError: This diffusers does not have it.
    """
    module = builder_for(class_name).module
    try:
        with warnings.catch_warnings():  # older versions of diffusers warn of torch's when they are imported
            warnings.simplefilter("ignore")
            found: type[Any] = getattr(import_module(module), class_name)
    except (ImportError, AttributeError):
        import diffusers

        raise ConfigError(
            f"diffusers {diffusers.__version__} has no {class_name}",
            hint="install a diffusers that has it, or see `unetinspect models`",
        ) from None
    return found


@cache
def class_keys() -> dict[str, dict[str, Any]]:
    """Return the config keys of every class that this diffusers has, each with its default."""
    found = {}
    for name in supported_classes():
        with suppress(ConfigError):  # an older diffusers lacks some
            found[name] = keys_of(name)
    return found


def plain(value: Any) -> Any:
    """Return a config value in JSON's types: defaults of a class and the config of a live module contain tuples."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [plain(item) for item in value]
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)


class PlannedPass(Struct, frozen=True, kw_only=True):
    """One forward pass, decided.

    Attributes:
        builder: The builder of the class.
        request: What the user asked for.
        run: The record of it, so far. The dtype of an input that takes the dtype of the pass is "float".
    """

    builder: Builder
    request: Request
    run: Run

    @property
    def plan(self) -> Plan:
        """The sizes in the form that builders need."""
        return Plan(batch=self.run.forward_batch, size=self.run.sample_size, tokens=self.request.tokens, frames=self.run.frames)

    def with_inputs(self, inputs: Iterable[InputInfo], *, attached: str | None = None) -> PlannedPass:
        """Return the pass with more arguments of `forward`: those that an `attached` ControlNet or T2I-Adapter fills, or others."""
        return replace(self, run=replace(self.run, inputs=(*self.run.inputs, *inputs), plugged=attached))


class RefusedError(ConfigError):
    """Raised when diffusers refuses to build a config, or it gives no shapes for the inputs: a width is null, or a string."""


def plan_pass(model: LoadedModel, class_name: str, values: Mapping[str, Any], request: Request) -> PlannedPass:
    """Decide a forward pass. `values` holds every key of the config, defaults filled in.

    Raises:
        RefusedError: The config gives no shapes for the inputs.
        UsageError: The request does not fit the UNet.
    """
    builder = builder_for(class_name)
    known = Given(model.vae_scale_factor, model.vae_scale_from)
    try:
        # Another sample_size than the model's own is meant to be run.
        is_own = model.config.get("sample_size") == values.get("sample_size")
        run = decide_run(request, values, builder, known, medium=model.medium, default=model.default_size if is_own else None)
        planned = PlannedPass(builder=builder, request=request, run=run)
        planned = planned.with_inputs(builder.inputs(values, planned.plan))
    except UnetInspectError:
        raise
    except Exception as error:  # builders do not check the types of a config
        raise RefusedError(f"the config of {model.name} gives no input shapes: {error}", hint=SEE_CONFIG) from error
    if request.tokens is not None and not any("tokens" in spec.axes for spec in planned.run.inputs):
        raise UsageError(f"--tokens: no input of {model.name} has tokens", hint="leave --tokens out")
    return planned


def model_info(model: LoadedModel, config: ResolvedConfig, *, params: int | None) -> ModelInfo:
    """Return the model section of a record; `params` is None before the UNet is built."""
    return ModelInfo(
        name=model.name,
        class_name=config.class_name,
        params=params,
        source=model.source,
        config={"_class_name": config.class_name, **config.values},
        config_defaults=config.defaults,
        config_ignored=config.ignored,
        config_overrides=config.overridden,
        module=builder_for(config.class_name).module,
    )


def described(record: Trace, model: LoadedModel, config: ResolvedConfig, request: Request, attached: LoadedModel | None = None) -> Trace:
    """Return the record of a pass with the name, source and notes of `model`: models of one config share a pass.

    The notes of the record are those of the pass; those of the model and of its config go before them.
    """
    run = record.run
    # The factor is the model's own unless the request gives one, it had to be assumed, or the sample is a signal.
    is_own = request.vae_scale is None and None not in (model.vae_scale_factor, run.vae_scale_factor)
    run = replace(
        run,
        vae_scale_from=model.vae_scale_from if is_own else run.vae_scale_from,
        notes=(*model.notes, *config.notes, *run.notes),
    )
    if attached is not None:
        option = f"--with {attached.name}"
        inputs = (replace(spec, config_key=option) if (spec.config_key or "").startswith("--with ") else spec for spec in run.inputs)
        run = replace(run, plugged=attached.name, inputs=tuple(inputs))
    info = model_info(model, config, params=record.model.params)
    return replace(record, model=replace(info, config=record.model.config), run=run)
