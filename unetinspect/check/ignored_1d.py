"""Keys of a `UNet1DModel` that have no effect with the others. Source: `unet_1d.py` and `unet_1d_blocks.py` of diffusers 0.42."""

from __future__ import annotations

from collections.abc import Iterator

from unetinspect.unets.base import Config, is_list

_COUNTED = ("DownResnetBlock1D", "UpResnetBlock1D", "MidResTemporalBlock1D")
_OUT_BLOCKS = ("OutConv1DBlock", "ValueFunction")


def unread_1d(values: Config) -> Iterator[tuple[str, str]]:
    """List the keys that have no effect, each with the reason why."""
    kinds = _kinds(values)
    if kinds is None:
        return
    out, fourier, embeds = (
        values.get("out_block_type"),
        values.get("time_embedding_type") == "fourier",
        values.get("use_timestep_embedding"),
    )
    if out is not None and out not in _OUT_BLOCKS:
        yield "out_block_type", "diffusers knows OutConv1DBlock and ValueFunction, and has no such block for another word"
    if out != "OutConv1DBlock":
        yield "norm_num_groups", "only out_block_type OutConv1DBlock reads it"
    if out not in _OUT_BLOCKS and not embeds:
        yield "act_fn", "only an out_block_type and use_timestep_embedding read it"
    if not any(kind in _COUNTED for kind in kinds):
        yield "layers_per_block", f"only {', '.join(_COUNTED)} read it, and there is none"
    if not any(kind in ("DownResnetBlock1D", "MidResTemporalBlock1D") for kind in kinds):
        yield "downsample_each_block", "only DownResnetBlock1D and MidResTemporalBlock1D read it, and there is none"
    if fourier:
        yield "freq_shift", "time_embedding_type 'fourier' has none"
    else:
        yield "time_embedding_dim", "only time_embedding_type 'fourier' reads it"


def _kinds(values: Config) -> list[str] | None:
    lists = [values.get(f"{way}_block_types") for way in ("down", "up")]
    if not all(is_list(kinds) for kinds in lists):
        return None
    return [str(kind) for kinds in lists if is_list(kinds) for kind in kinds] + [str(values.get("mid_block_type"))]
