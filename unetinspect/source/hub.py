"""Configs of a hub repository, through huggingface_hub and its cache. Fetches configs only, never weights."""

from __future__ import annotations

from unetinspect.record import Source
from unetinspect.source.base import LoadedModel
from unetinspect.source.hub_id import HubId
from unetinspect.source.hub_repository import HubRepository
from unetinspect.source.pipeline import NoUnetError, find_unet, find_vae


def read_hub(model: HubId, *, token: str | None = None, is_offline: bool = False) -> LoadedModel:
    """Read the UNet's config of a repository, from the hub or from its cache on this machine.

    Raises:
        HubError: The hub cannot be asked or says no, and no copy is in the cache.
        SourceError: The repository was read and holds no UNet, or a file that is no config.
        UsageError: The token cannot be one.
    """
    repository = HubRepository(model.repo_id, model.revision, token=token, is_offline=is_offline)
    try:
        found = find_unet(repository, model.folder)
    except NoUnetError as error:
        raise repository.failure or repository.doubt() or _with_checkpoints(error, repository, model) from None
    vae = find_vae(repository, found.folder)
    return LoadedModel(
        name=model.repo_id,
        config=found.config,
        source=Source(kind="hub", location=model.repo_id, revision=repository.commit, subfolder=found.folder or None),
        vae_scale_factor=vae.factor,
        vae_scale_from=vae.read_from,
        notes=(*repository.notes(without="the VAE's config"), *found.notes, *vae.notes),
    )


def _with_checkpoints(error: NoUnetError, repository: HubRepository, model: HubId) -> NoUnetError:
    """Return the error with the single-file checkpoints that the repository has instead."""
    files = repository.checkpoints() if model.folder is None else []
    if not files:
        return error
    revision = f"@{model.revision}" if model.revision else ""
    more = f" (and {len(files) - 1} more)" if len(files) > 1 else ""
    return NoUnetError(
        error.message, hint=f"it has checkpoints, which are read by their headers: hf://{model.repo_id}{revision}/{files[0]}{more}"
    )
