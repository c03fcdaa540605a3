"""The Python entry point: `unetinspect.trace`. Imports torch only when there is something to run."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeGuard

from unetinspect.errors import UsageError
from unetinspect.record import Source, Trace
from unetinspect.run.cache import Recorder, open_cache
from unetinspect.source import LoadedModel, read_model
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

    `model` is a catalog name, a path, a hub ID, a config, a live module (`pipe.unet`), or a `Trace`, whose config is traced
    again. A live module is left exactly as it was.

    res        image size in pixels, (height, width); the sample is `res / vae_scale_factor`
    latent     sample size, (height, width), or the length of a signal; the default of both is the config's `sample_size`
    batch      images per batch; `forward_batch` is twice that under classifier-free guidance
    cfg        classifier-free guidance; by default on for conditional models
    tokens     tokens in `encoder_hidden_states`
    frames     frames of a video UNet; by default those of its config or its pipeline
    freeu      FreeU's factors b1, b2, s1, s2: (1.2, 1.4, 0.9, 0.2)
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
    where = {"revision": revision, "subfolder": subfolder, "token": token, "offline": offline}
    attached = None if plug_in is None else _load(plug_in, {"token": token, "offline": offline})
    if not _is_live(model):
        return Recorder(open_cache(wanted=cache), _load(model, where), overrides, force=force).record(request, attached)
    if overrides:
        raise UsageError(
            "overrides cannot be applied to a module that is already built",
            hint="pass its config instead: {**unet.config, '_class_name': type(unet).__name__}",
        )
    from unetinspect.run.tracer import trace_module

    return trace_module(model, request, attached)


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
