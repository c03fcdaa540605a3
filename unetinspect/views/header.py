"""The lines above every table: the UNet, the size of the pass, and where they come from."""

from __future__ import annotations

from collections.abc import Iterator

from unetinspect.record import ModelInfo, Run
from unetinspect.units import format_count, format_size

_SOURCES = {
    "verbatim": "bundled copy of",
    "reconstructed": "bundled reconstruction of",
    "catalog": "bundled config of",  # of records of earlier versions
    "hub": "from the hub,",
    "module": "of the live module",
    "dict": "given in Python,",
}

# The media that `image_size` is the size of.
_MEDIA = {"image": "image", "video": "frame", "spectrogram": "spectrogram (time x mel bins)", "signal": "signal"}


def header(model: ModelInfo, run: Run | None = None) -> list[str]:
    """Write what was traced and how: class, parameters, source; sizes with the VAE factor; batch, dtype, device."""
    source = model.source
    params = f", {format_count(model.params)} params" if model.params is not None else ""
    folder = f", {source.subfolder}/" if source.subfolder else ""
    revision = f" at {source.revision[:12]}" if source.revision else ""
    place = "standard input" if source.kind == "stdin" else source.location
    lines = [
        f"{model.name}: {model.class_name}{params}",
        f"config: {_SOURCES.get(source.confidence or source.kind, 'from')} {place}{folder}{revision}",
    ]
    if run is not None:
        cfg = f" = 2 x {run.batch} (CFG, {run.cfg_reason})" if run.cfg else f", no CFG ({run.cfg_reason})"
        lines.append(f"size:   {_sizes(run)}")
        lines += [f"frames: {run.frames} ({run.frames_from})"] if run.frames is not None else []
        lines += [f"batch:  {run.forward_batch}{cfg}; {run.dtype} on {run.device}", *added_lines(run)]
    return lines


def _sizes(run: Run) -> str:
    if run.medium == "signal":
        return f"sample of length {format_size(run.sample_size)} ({run.sample_size_from})"
    sample = f"sample {format_size(run.sample_size)} ({run.sample_size_from})"
    if run.image_size is None:
        return f"{sample}, vae_scale_factor unknown"
    if run.vae_scale_factor == 1:
        return f"{sample}, in pixels: vae_scale_factor 1 ({run.vae_scale_from})"
    factor = f"vae_scale_factor {run.vae_scale_factor:g} ({run.vae_scale_from})"
    return f"{_MEDIA[run.medium]} {format_size(run.image_size)}, {sample}, {factor}"


def added_lines(run: Run) -> Iterator[str]:
    """Write what was added to the pass: FreeU, an attached model."""
    if run.freeu is not None:
        factors = ", ".join(f"{name} {factor:g}" for name, factor in zip(("b1", "b2", "s1", "s2"), run.freeu, strict=True))
        yield f"FreeU:  {factors}"
    if run.plugged is not None:
        yield f"with:   {run.plugged} attached"
