"""UNets that are made for one pipeline each: Kandinsky 3, aMUSEd and Stable Cascade."""

from __future__ import annotations

from collections.abc import Iterator
from math import ceil, log2

from unetinspect.unets.base import TIMESTEP, Arg, Builder, Config, Given, arg
from unetinspect.unets.request import Size

_PRIOR_SIDE, _DECODER_SIDE = 24, 256  # of Stable Cascade's samples, for an image of 1024 px


class Kandinsky3Inputs(Builder):
    """sample, timestep, encoder_hidden_states, encoder_attention_mask; forward cannot do without any of them."""

    class_name = "Kandinsky3UNet"
    what = "image from text: Kandinsky 3"
    default_tokens = 128  # max_length of its pipelines
    default_size = (128, 128)

    def args(self, config: Config) -> Iterator[Arg]:
        yield arg("sample", "batch in_channels height width", "in_channels")
        yield TIMESTEP
        yield arg("encoder_hidden_states", "batch tokens encoder_hid_dim", "encoder_hid_dim")
        yield arg("encoder_attention_mask", "batch tokens", dtype="int64")


class UVit2DInputs(Builder):
    """input_ids, which entry of a codebook is in each cell of a grid, encoder_hidden_states, pooled_text_emb, micro_conds."""

    class_name = "UVit2DModel"
    what = "image tokens from text: aMUSEd"
    vae_scale = 16  # the VQ models of aMUSEd halve the image four times

    def args(self, config: Config) -> Iterator[Arg]:
        ids = config["micro_cond_embed_dim"] // config["micro_cond_encode_dim"]
        yield arg("input_ids", "batch height width", "sample_size", dtype="int64")
        yield arg("encoder_hidden_states", "batch tokens encoder_hidden_size", "encoder_hidden_size")
        yield arg("pooled_text_emb", "batch cond_embed_dim", "cond_embed_dim")
        yield arg("micro_conds", "batch ids", "micro_cond_embed_dim, micro_cond_encode_dim", ids=ids)

    def halvings(self, config: Config) -> int:
        return 1 if config["downsample"] else 0


class StableCascadeInputs(Builder):
    """sample, timestep_ratio, clip_text_pooled, and what the `*_in_channels` keys add to them: of the prior and the decoder.

    `sca` and `crp` are left out: forward reads them by `sca or zeros`, which no tensor of a batch can answer.
    Sizes and the tokens of each input are those of `pipeline_stable_cascade.py` and `pipeline_stable_cascade_prior.py`.
    """

    class_name = "StableCascadeUNet"
    what = "image from text: Stable Cascade, prior and decoder"

    def args(self, config: Config) -> Iterator[Arg]:
        text, image, effnet, pixels = (f"{key}_in_channels" for key in ("clip_text", "clip_image", "effnet", "pixel_mapper"))
        yield arg("sample", "batch in_channels height width", "in_channels")
        yield arg("timestep_ratio", "batch")
        yield arg("clip_text_pooled", "batch pooled clip_text_pooled_in_channels", "clip_text_pooled_in_channels", pooled=1)
        if config[text] is not None and config[image] is not None:  # get_clip_embeddings reads neither without the other
            yield arg("clip_text", f"batch tokens {text}", text)
            yield arg("clip_img", f"batch images {image}", image, images=1)
        if config[effnet]:  # the prior's result: the pipeline makes the sample int(10.67 * side) wide
            yield arg("effnet", f"batch {effnet} (height / 10.67) (width / 10.67)", effnet)
        if config[pixels]:  # forward makes 8 x 8 where it is given none
            yield arg("pixels", f"batch {pixels} rows columns", pixels, rows=8, columns=8)

    def assumed_vae_scale(self, config: Config) -> int | None:
        return 4 if config["effnet_in_channels"] else None

    def sample_size(self, config: Config) -> Given[Size]:
        """Return the size at which its pipeline runs, in whole patches: a UNet that is given effnet is a decoder."""
        side = _DECODER_SIDE if config["effnet_in_channels"] else _PRIOR_SIDE
        patch, levels = int(config["patch_size"]), len(config["block_out_channels"])
        side = max(ceil(side / patch) * patch, patch * 2 ** (levels - 1))
        return Given((side, side), "assumed: Stable Cascade's size for 1024 px")

    def halvings(self, config: Config) -> int:
        return len(config["block_out_channels"]) - 1 + ceil(log2(config["patch_size"]))
