"""The Python entry points, one a command that has a record. Imports torch only when there is something to run."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, TypedDict, TypeGuard, Unpack, cast

from unetinspect.errors import ConfigError, UsageError
from unetinspect.record import Check, Checkpoint, Diff, ErrorExplanations, Name, Source, SweepPoint, Trace
from unetinspect.run.cache import Recorder, open_cache
from unetinspect.source import LoadedModel, read_model
from unetinspect.unets.request import Request, make_request, parse_bytes, parse_counts, parse_sizes

if TYPE_CHECKING:
    import torch
    from torch import nn

    Model = str | os.PathLike[str] | Mapping[str, Any] | nn.Module | Trace
    OneSize = int | str | tuple[int, ...]


class Options(TypedDict, total=False):
    """The options of `trace`, except the size and the batch."""

    cfg: bool | None
    tokens: int | None
    frames: int | None
    freeu: str | tuple[float, float, float, float] | None
    training: bool
    optimizer: str | None
    gradient_checkpointing: bool
    plug_in: Model | None
    device: str | torch.device
    dtype: str | torch.dtype | None
    overrides: Mapping[str, Any] | None
    cache: bool
    force: bool
    vae_scale: int | None
    revision: str | None
    subfolder: str | None
    token: str | None
    offline: bool


class SizedOptions(Options, total=False):
    """The options of `trace`."""

    res: OneSize | None
    latent: OneSize | None
    batch: int


def trace(
    model: Model = "sd15",
    *,
    res: int | str | tuple[int, int] | None = None,
    latent: int | str | tuple[int, ...] | None = None,
    batch: int = 1,
    cfg: bool | None = None,
    tokens: int | None = None,
    frames: int | None = None,
    freeu: str | tuple[float, float, float, float] | None = None,
    training: bool = False,
    optimizer: str | None = None,
    gradient_checkpointing: bool = False,
    plug_in: Model | None = None,
    device: str | torch.device = "auto",
    dtype: str | torch.dtype | None = None,
    overrides: Mapping[str, Any] | None = None,
    cache: bool = True,
    force: bool = False,
    vae_scale: int | None = None,
    revision: str | None = None,
    subfolder: str | None = None,
    token: str | None = None,
    offline: bool = False,
) -> Trace:
    """Run one dummy forward pass of a diffusers UNet and return what was observed.

    `model` is a catalog name, a path, a hub ID, a config, a live module (`pipe.unet`), or a `Trace`, whose config is traced
    again. A live module is left exactly as it was.

    res        image size in pixels, (height, width); the sample is `res / vae_scale_factor`
    latent     sample size, (height, width), or the length of a signal; the default of both is the config's `sample_size`
    batch      images per batch; `forward_batch` is twice that under classifier-free guidance
    cfg        classifier-free guidance; by default on for conditional models
    tokens     tokens in `encoder_hidden_states`
    frames     frames of a video UNet; by default those of its config or its pipeline
    freeu      FreeU's factors b1, b2, s1, s2: (1.2, 1.4, 0.9, 0.2)
    training   run a training step too, without CFG: its memory is in `totals.training`; of a module, only parameters that require
               a gradient are trained
    optimizer  "adamw" (the default), "sgd", "adafactor" or "8bit", with `training`; as is
    gradient_checkpointing, which runs blocks again in the backward pass
    plug_in    a ControlNet or T2I-Adapter, in the same forms as `model`; the UNet runs with its outputs
    device     "auto" is CUDA if available, else "meta", where nothing is allocated
    overrides  config keys to set before the UNet is built
    vae_scale  VAE scale factor, if the model's own files do not have it
    revision, subfolder, token, offline: for a hub ID or a folder, as on the command line
    cache      use the cache of records; not for a live module, and not if diffusers was imported before, because its classes
               may have been changed since
    force      lift the size limits

    Raises:
        UnetInspectError: An invalid value, an unreadable source, a config that cannot be built, a pass that fails.
    """
    asked = _ask(
        model,
        res=res,
        latent=latent,
        batch=batch,
        cfg=cfg,
        tokens=tokens,
        frames=frames,
        freeu=freeu,
        training=training,
        optimizer=optimizer,
        gradient_checkpointing=gradient_checkpointing,
        plug_in=plug_in,
        device=device,
        dtype=dtype,
        overrides=overrides,
        cache=cache,
        force=force,
        vae_scale=vae_scale,
        revision=revision,
        subfolder=subfolder,
        token=token,
        offline=offline,
    )
    return asked.record(asked.request, asked.attached)


def diff(a: Model, b: Model, **options: Unpack[SizedOptions]) -> Diff:
    """Compare two UNets, as `unetinspect diff` does. A `Trace` is compared as it is, unless there are options.

    The options, those of `trace`, are for both; of two that differ in options, compare the traces.

    Raises:
        UnetInspectError: What `trace` raises.
    """
    from unetinspect.compare import compare

    return compare(_observed(a, options), _observed(b, options))


def names(model: Model = "sd15", name: str | None = None, **options: Unpack[SizedOptions]) -> tuple[Name, ...]:
    """Return what a name means in a UNet, or all names of all its modules and tensors, as `unetinspect names` does.

    Raises:
        UsageError: Nothing in the UNet has the name.
        UnetInspectError: What `trace` raises.
    """
    from unetinspect.naming import find_names, names_of

    record = _observed(model, options)
    return names_of(record) if name is None else find_names(record, name)


def sweep(
    model: Model = "sd15",
    *,
    res: OneSize | list[Any] | None = None,
    latent: OneSize | list[Any] | None = None,
    batch: int | Sequence[int] = 1,
    fit: int | str | None = None,
    **options: Unpack[Options],
) -> tuple[SweepPoint, ...]:
    """Run a pass at each size and each batch, as `unetinspect sweep` does; a size that fails has an `error`.

    `res` and `latent` are one size or a list of them, `batch` is a number or a list; the other options are those of `trace`. `fit`
    ("24GiB", or bytes) asks for the largest batch of each size whose `total_bytes` is within it.

    Raises:
        UsageError: Every size is refused because of an option.
        UnetInspectError: The model cannot be read or built.
    """
    from unetinspect.run.sweep import sweep as run_sweep

    asked = _ask(model, **options)
    sizes = _sizes(res, latent)
    counts = parse_counts([str(batch)] if isinstance(batch, int) else [str(number) for number in batch], option="batch")
    limit = parse_bytes(fit, option="fit")
    points, _ = run_sweep(asked.record, asked.request, **sizes, batch=counts, attached=asked.attached, fit=limit)
    return points


def check(
    model: Model = "sd15",
    *,
    res: OneSize | list[Any] | None = None,
    latent: OneSize | list[Any] | None = None,
    batch: int = 1,
    weights: str | os.PathLike[str] | None = None,
    expect: Mapping[str, Any] | None = None,
    **options: Unpack[Options],
) -> Check:
    """Find what is wrong with a UNet, as `unetinspect check` does; of a module, its config is checked.

    `res` and `latent` are one size or a list of them, `weights` a checkpoint that should fit, `expect` values in the record:
    `{"attention.cross": 16, "params": "<=900M"}`. The other options are those of `trace`, without `plug_in`.

    Raises:
        UsageError: An option does not apply, or the record has nothing of an expectation's name.
        UnetInspectError: The model or the checkpoint cannot be read.
    """
    from msgspec.structs import replace

    from unetinspect.checking.expected import read_expected
    from unetinspect.checking.model import check_model
    from unetinspect.source.read import read_weights

    if options.get("plug_in") is not None:
        raise UsageError("check does not support plug_in", hint="trace(model, plug_in=...) runs the UNet with it")
    asked = _ask(model, batch=batch, **options)
    sized = [replace(asked.request, **{name: size}) for name, sizes in _sizes(res, latent).items() for size in sizes]
    given = asked.recorder.model.weights
    if weights is not None:
        given = read_weights(os.fspath(weights), token=options.get("token"), offline=options.get("offline", False))
    expected = [read_expected(*pair) for pair in (expect or {}).items()]
    return cast(Check, check_model(asked.recorder, sized or [asked.request], weights=given, expected=expected).check)


def identify(
    file: str | os.PathLike[str],
    *,
    revision: str | None = None,
    subfolder: str | None = None,
    token: str | None = None,
    offline: bool = False,
) -> Checkpoint:
    """Return what a checkpoint, a LoRA or another file of weights is, from its header alone, as `unetinspect identify` does.

    Raises:
        SourceError: It cannot be read.
        UsageError: An option does not apply to it.
    """
    from unetinspect.source.read import read_weights

    return read_weights(os.fspath(file), revision=revision, subfolder=subfolder, token=token, offline=offline).checkpoint


def explain_error(error: str | BaseException) -> ErrorExplanations:
    """Explain an error, or every error of a text, as `unetinspect explain-error` does.

    Raises:
        UsageError: No error of a UNet is known in it.
    """
    from traceback import format_exception

    from unetinspect.explain import explain_error as explain

    return explain(error if isinstance(error, str) else "".join(format_exception(error)))


class _Asked(NamedTuple):
    """What a call asks for: how to record a pass of the model, and which."""

    recorder: Recorder
    record: Callable[[Request, LoadedModel | None], Trace]
    request: Request
    attached: LoadedModel | None


def _ask(
    model: Model,
    *,
    plug_in: Model | None = None,
    overrides: Mapping[str, Any] | None = None,
    cache: bool = True,
    force: bool = False,
    revision: str | None = None,
    subfolder: str | None = None,
    token: str | None = None,
    offline: bool = False,
    **options: Any,
) -> _Asked:
    request = make_request(**options)
    attached = None if plug_in is None else _load(plug_in, {"token": token, "offline": offline})
    where = {"revision": revision, "subfolder": subfolder, "token": token, "offline": offline}
    recorder = Recorder(open_cache(wanted=cache), _load(model, where), overrides, force=force)

    def record(request: Request, attached: LoadedModel | None) -> Trace:
        try:
            return recorder.record(request, attached)
        except ConfigError as error:
            if error.hint and error.change:  # in Python's words
                typed = " ".join(problem.options for problem in error.mistakes)
                error.hint = error.hint.replace(typed, f"overrides={error.change}")
            raise

    if not _is_live(model):
        return _Asked(recorder, record, request, attached)
    if overrides:
        raise UsageError(
            "overrides cannot be applied to a module that is already built",
            hint="pass its config instead: {**unet.config, '_class_name': type(unet).__name__}",
        )
    from unetinspect.run.tracer import trace_module

    return _Asked(recorder, partial(trace_module, model), request, attached)


def _observed(model: Model, options: SizedOptions) -> Trace:
    """Return a record, or one in a file, as it is unless there are options; of all else, a new one."""
    if isinstance(model, Trace) and not options:
        return model
    asked = _ask(model, **options)
    saved = None if options else asked.recorder.model.trace
    return asked.record(asked.request, asked.attached) if saved is None else saved


def _sizes(res: Any, latent: Any) -> dict[str, list[tuple[int, ...]]]:
    """Read one size or several, of the image or of the sample.

    Raises:
        UsageError: One of them is not a size, or both are given.
    """
    if res is not None and latent is not None:
        make_request(res=res, latent=latent)  # which refuses both
    return {"res": parse_sizes(_typed(res), option="res"), "latent": parse_sizes(_typed(latent), option="latent")}


def _typed(value: Any) -> list[str] | None:
    """Write a value, or each of a list, as the command line has it; a tuple is one size.

    >>> _typed([512, (512, 768)]), _typed((512, 768))
    (['512', '512x768'], ['512x768'])
    """
    if value is None:
        return None
    return ["x".join(map(str, one)) if isinstance(one, tuple) else str(one) for one in (value if isinstance(value, list) else [value])]


def _load(model: Any, where: Mapping[str, Any]) -> LoadedModel:
    if isinstance(model, str | os.PathLike):
        return read_model(model, **where)
    if isinstance(model, Trace):
        return LoadedModel.from_trace(model)
    if _is_live(model):
        from unetinspect.run.live import LiveModule

        return LiveModule(model).model
    from unetinspect.source.sections import find_unet

    name = str(model.get("_class_name") or "config")
    return find_unet(LoadedModel(name=name, config=dict(model), source=Source(kind="dict", location=name)))


def _is_live(model: Any) -> TypeGuard[nn.Module]:
    """Return whether a model is a live module.

    Raises:
        UsageError: It cannot be a model.
    """
    if isinstance(model, str | os.PathLike | Mapping | Trace):
        return False
    from torch import nn

    if not isinstance(model, nn.Module):
        raise UsageError(
            f"a model cannot be a {type(model).__name__}",
            hint="pass a catalog name, a path, a hub ID, a config dict, a module or a Trace",
        )
    return True
