"""What a record says of the model that it was asked for: its name, where it was read, which keys were given. No torch.

None of it decides a pass: two models of one resolved config share a pass, and each is described by what is its own.
"""

from __future__ import annotations

from msgspec.structs import replace

from unetinspect.record import ModelInfo, Trace
from unetinspect.run.resolve import ResolvedConfig
from unetinspect.source.loaded import LoadedModel
from unetinspect.unets.request import Request


def model_info(model: LoadedModel, config: ResolvedConfig, *, params: int | None) -> ModelInfo:
    """Return what a record says of a model, `params` where it was built."""
    return ModelInfo(
        name=model.name,
        class_name=config.class_name,
        params=params,
        source=model.source,
        config=config.values,
        config_defaults=config.defaults,
        config_ignored=config.ignored,
        config_overrides=config.overridden,
        module=config.module,
    )


def described(record: Trace, model: LoadedModel, config: ResolvedConfig, request: Request, plugged: LoadedModel | None = None) -> Trace:
    """Return the record of a pass as that of `model`, whichever model of this config it was run for.

    The notes of the record are those of the pass alone; those of the model and of its config are put before them.
    """
    run = record.run
    # The factor is the model's own unless the request brings one, it had to be assumed, or the sample is a signal.
    is_own = request.vae_scale is None and None not in (model.vae_scale_factor, run.vae_scale_factor)
    run = replace(
        run,
        vae_scale_from=model.vae_scale_from if is_own else run.vae_scale_from,
        notes=(*model.notes, *config.notes, *run.notes),
    )
    if plugged is not None:
        said = f"--with {plugged.name}"
        inputs = (replace(spec, config_key=said) if (spec.config_key or "").startswith("--with ") else spec for spec in run.inputs)
        run = replace(run, plugged=plugged.name, inputs=tuple(inputs))
    return replace(record, model=model_info(model, config, params=record.model.params), run=run)
