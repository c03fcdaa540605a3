"""`UNet2DModel`: an unconditional UNet, or one that is told a class."""

from __future__ import annotations

from collections.abc import Iterator

from unetinspect.unets.base import Builder, Config, InputSpec, Plan, is_count, is_list
from unetinspect.unets.block_rules import check_widening
from unetinspect.unets.blocks_2d import DOWN_BLOCKS_2D, SKIP_DOWN_BLOCKS_2D, SKIP_UP_BLOCKS_2D, UP_BLOCKS_2D
from unetinspect.unets.config_rules import (
    check_activation,
    check_block_lists,
    check_block_names,
    check_choice,
    check_classes,
    check_counts,
    check_dropout,
    check_from_zero,
    check_groups,
    check_heads,
    check_layers_per_block,
    check_sample_size,
    check_set,
    check_time_norm,
)


class UNet2DInputs(Builder):
    """sample (batch, in_channels, height, width), timestep (), class_labels where there are classes."""

    class_name = "UNet2DModel"
    what = "image, unconditional or by class"

    def condition(self, config: Config) -> str | None:
        return "class_labels" if self._class_labels(config, batch=1) else None

    def inputs(self, config: Config, plan: Plan) -> list[InputSpec]:
        sample = (plan.batch, config["in_channels"], *plan.size)
        labels = self._class_labels(config, batch=plan.batch)
        return [
            InputSpec("sample", sample, ("batch", "in_channels", "height", "width"), "in_channels, sample_size"),
            InputSpec("timestep", (), (), None, "int64"),
            *([labels] if labels else []),
        ]

    def problems(self, config: Config) -> list[str]:
        return [
            *check_block_lists(config),
            *check_block_names(config, "down_block_types", (*DOWN_BLOCKS_2D, *SKIP_DOWN_BLOCKS_2D)),
            *check_block_names(config, "up_block_types", (*UP_BLOCKS_2D, *SKIP_UP_BLOCKS_2D)),
            *check_counts(config, ["in_channels", "out_channels"]),
            *check_counts(config, ["norm_num_groups", "attention_head_dim", "attn_norm_num_groups"], optional=True),
            *check_classes(config),
            *check_layers_per_block(config),
            *check_set(config, ["norm_eps", "freq_shift", "mid_block_scale_factor", "downsample_padding"]),
            *check_dropout(config, "dropout"),
            *check_activation(config, "act_fn"),
            *check_from_zero(config, ["time_embedding_dim"]),
            *check_choice(config, "time_embedding_type", ("positional", "fourier", "learned")),
            *check_time_norm(config),
            *check_groups(config),
            *check_sample_size(config),
            *check_widening(config),
            *_learned_without_steps(config),
            *_sampling(config),
            *_attention(config),
            *_image_beside(config),
        ]

    def assumed_vae_scale(self, config: Config) -> int:
        return 1

    def _class_labels(self, config: Config, *, batch: int) -> InputSpec | None:
        """Return class_labels as `UNet2DModel.forward` takes them (unet_2d.py, "class_embedding")."""
        kind = config["class_embed_type"]
        if kind is None and config["num_class_embeds"] is not None:
            return InputSpec("class_labels", (batch,), ("batch",), "num_class_embeds", "int64")
        if kind == "timestep":
            return InputSpec("class_labels", (batch,), ("batch",), "class_embed_type", "int64")
        if kind == "identity":
            width = config["time_embedding_dim"] or 4 * config["block_out_channels"][0]
            return InputSpec("class_labels", (batch, width), ("batch", "time_embed_dim"), "class_embed_type")
        return None


def _learned_without_steps(config: Config) -> Iterator[str]:
    if config["time_embedding_type"] == "learned" and config["num_train_timesteps"] is None:
        yield "time_embedding_type is 'learned', which needs num_train_timesteps"


def _sampling(config: Config) -> Iterator[str]:
    """Find a way to halve or double that blocks with attention do not know; the last on each way does neither."""
    for way, key in (("down", "downsample_type"), ("up", "upsample_type")):
        blocks = _blocks(config, way)[:-1]
        if any(kind in ("AttnDownBlock2D", "AttnUpBlock2D") for _, kind, _ in blocks):
            yield from check_choice(config, key, ("conv", "resnet", None))


def _attention(config: Config) -> Iterator[str]:
    """Find heads with more channels than a block has, and groups that do not divide those of the mid block's attention."""
    key, groups = "attention_head_dim", config["attn_norm_num_groups"]
    mid = [("mid block", "", channels) for _, _, channels in _blocks(config, "down")[-1:]] if config["mid_block_type"] is not None else []
    mid = mid if config["add_attention"] else []
    attending = [block for block in (*_blocks(config, "down"), *_blocks(config, "up")) if "Attn" in block[1]]
    if config[key] is not None:
        yield from list(check_heads(key, [(name, config[key], channels) for name, _, channels in (*attending, *mid)]))[:1]
    if mid and is_count(groups) and mid[0][2] % groups:
        yield f"attn_norm_num_groups is {groups}, and must divide the {mid[0][2]} channels of the mid block"


def _image_beside(config: Config) -> Iterator[str]:
    """Find an image that skip blocks cannot carry along: they make it of 3 channels, and 3 channels of it."""
    for way, key in (("down", "in_channels"), ("up", "out_channels")):
        skipping = [kind for _, kind, _ in _blocks(config, way)[:-1] if "Skip" in kind]
        if skipping and is_count(config[key]) and config[key] != 3:
            yield f"{key} is {config[key]}, and must be 3: {skipping[0]} carries an image of 3 channels along"


def _blocks(config: Config, way: str) -> list[tuple[str, str, int]]:
    """List (name, type, channels) of each block on the way down or up."""
    kinds, channels = config[f"{way}_block_types"], config["block_out_channels"]
    if not is_list(kinds) or not is_list(channels) or len(kinds) != len(channels) or not all(map(is_count, channels)):
        return []
    places = channels if way == "down" else list(reversed(channels))
    return [(f"{way} block {place}", str(kind).removeprefix("UNetRes"), places[place]) for place, kind in enumerate(kinds)]
