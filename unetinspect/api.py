"""The Python entry point: `unetinspect.trace`. Imports torch only once there is something to run."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from unetinspect.errors import UsageError
from unetinspect.record import Source, Trace
from unetinspect.run.cache import Recorder, open_cache
from unetinspect.source import LoadedModel, read_model
from unetinspect.source.loaded import loaded_trace
from unetinspect.unets.request import make_request

if TYPE_CHECKING:
    import torch
    from torch import nn


def trace(
    model: str | os.PathLike[str] | Mapping[str, Any] | nn.Module | Trace = "sd15",
    *,
    res: int | str | tuple[int, int] | None = None,
    latent: int | str | tuple[int, ...] | None = None,
    batch: int = 1,
    cfg: bool | None = None,
    tokens: int | None = None,
    frames: int | None = None,
    freeu: str | tuple[float, float, float, float] | None = None,
    plug_in: str | os.PathLike[str] | Mapping[str, Any] | nn.Module | Trace | None = None,
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

    `model` is a catalog name, a path, a hub ID, a config, a live module (`pipe.unet`), or a `Trace`, whose config is
    then traced again. A live module is left exactly as it was.

    res        pixels of the image, (height, width); the sample is `res / vae_scale_factor`
    latent     the sample itself, (height, width), or the length of a signal; neither: the config's `sample_size`
    batch      images; `forward_batch` is twice that under classifier-free guidance
    cfg        classifier-free guidance; None: where the UNet is conditioned
    tokens     tokens of `encoder_hidden_states`
    frames     frames of a video UNet; None: what its config says, or what its pipeline runs
    freeu      FreeU's factors b1, b2, s1, s2: (1.2, 1.4, 0.9, 0.2)
    plug_in    a ControlNet or T2I-Adapter, given as `model` is; the UNet then runs with what it returned
    device     "auto" is CUDA where there is one, else "meta", where nothing is allocated
    overrides  config keys to set before the UNet is built
    vae_scale  pixels per sample cell along one side, where the model's own files do not say it
    revision, subfolder, token, offline: of a hub ID or a folder, as on the command line
    cache      take the record from the cache where it is kept, and keep it; not of a live module, and not where diffusers
               was imported before, since its classes may have been changed meanwhile
    force      lift the size limits

    Raises:
        UnetInspectError: A bad value, an unreadable source, a config that cannot be built, a pass that fails.
    """
    request = make_request(
        res=res,
        latent=latent,
        batch=batch,
        cfg=cfg,
        tokens=tokens,
        frames=frames,
        freeu=freeu,
        device=device,
        dtype=dtype,
        vae_scale=vae_scale,
    )
    overrides = dict(overrides or {})
    where = {"revision": revision, "subfolder": subfolder, "token": token, "offline": offline}
    plugged = None if plug_in is None else _load(plug_in, {"token": token, "offline": offline})
    if _is_live(model):
        return _trace_live(model, request, overrides, plugged)
    return Recorder(open_cache(wanted=cache), _load(model, where), overrides, force=force).record(request, plugged)


def _load(model: Any, where: Mapping[str, Any]) -> LoadedModel:
    if isinstance(model, str | os.PathLike):
        return read_model(model, **where)
    if isinstance(model, Trace):
        return loaded_trace(model)
    if _is_live(model):
        from unetinspect.run.live import LiveModule

        return LiveModule(model).model
    name = str(model.get("_class_name") or "config")
    return LoadedModel(name=name, config=dict(model), source=Source(kind="dict", location=name))


def _is_live(model: Any) -> bool:
    """Tell a module from what a model can be named or described by.

    Raises:
        UsageError: It is neither.
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


def _trace_live(module: Any, request: Any, overrides: Mapping[str, Any], plugged: LoadedModel | None) -> Trace:
    if overrides:
        raise UsageError(
            "overrides change a config before it is built, and this module is built already",
            hint="pass its config instead: {**unet.config, '_class_name': type(unet).__name__}",
        )
    from unetinspect.run.tracer import trace_module

    return trace_module(module, request, plugged)
