"""`AudioLDM2UNet2DConditionModel`: AudioLDM 2's, with several transformers behind each resnet and two texts for them.

A row of `cross_attention_dim` holds one width for each of the transformers: those in the first two places read
`encoder_hidden_states`, those behind them `encoder_hidden_states_1`, and null leaves one with self-attention alone.
Source: the blocks in `modeling_audioldm2.py` of diffusers.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from unetinspect.unets.base import Builder, Config, Given, InputSpec, Plan, is_count, is_list
from unetinspect.unets.block_list import Block, entry, list_blocks
from unetinspect.unets.block_rules import check_block_heads, check_lengths, check_plain_groups, one_for_each_value
from unetinspect.unets.condition_rules import check_time_values, find_unusable, missing_partners, uneven_depths
from unetinspect.unets.config_rules import (
    check_activation,
    check_block_lists,
    check_block_names,
    check_choice,
    check_classes,
    check_counts,
    check_layers_per_block,
    check_sample_size,
    check_set,
)
from unetinspect.unets.request import Size
from unetinspect.unets.unet_2d_condition import class_labels, common_width, timestep_cond

_FIRST_TEXT = 2  # so many places of a row read encoder_hidden_states
_MOST_TRANSFORMERS = 4
_GENERATED_TOKENS = 8  # max_new_tokens of the language model, which writes encoder_hidden_states
_SAME_WIDTHS = "give the rows of all such blocks the same width in their first two places, and one in those behind"
_MEL_CELLS = 16  # 64 mel bins of the vocoder behind a VAE of factor 4


class AudioLDM2Inputs(Builder):
    """sample, timestep, encoder_hidden_states, encoder_hidden_states_1; `--tokens` decides the tokens of both texts."""

    class_name = "AudioLDM2UNet2DConditionModel"
    module = "diffusers.pipelines.audioldm2.modeling_audioldm2"
    what = "sound from text, as a spectrogram: AudioLDM 2"
    medium = "spectrogram"
    default_size = (256, _MEL_CELLS)

    def condition(self, config: Config) -> str | None:
        names = ("encoder_hidden_states", "encoder_hidden_states_1")
        read = [name for name, width in zip(names, _text_widths(config), strict=True) if width is not None]
        return read[0] if read else "class_labels" if class_labels(config, 1) else None

    def inputs(self, config: Config, plan: Plan) -> list[InputSpec]:
        first, second = _text_widths(config)
        sample = (plan.batch, config["in_channels"], *plan.size)
        return [
            InputSpec("sample", sample, ("batch", "in_channels", "height", "width"), "in_channels, sample_size"),
            InputSpec("timestep", (), (), None, "int64"),
            _text("encoder_hidden_states", first, plan, _GENERATED_TOKENS),
            *class_labels(config, plan.batch),
            *timestep_cond(config, plan.batch),
            *([_text("encoder_hidden_states_1", second, plan, self.default_tokens)] if second is not None else []),
        ]

    def problems(self, config: Config) -> list[str]:
        found = [
            *check_block_lists(config),
            *check_block_names(config, "down_block_types", ("DownBlock2D", "CrossAttnDownBlock2D")),
            *check_block_names(config, "up_block_types", ("UpBlock2D", "CrossAttnUpBlock2D")),
            *check_choice(config, "mid_block_type", ("UNetMidBlock2DCrossAttn",)),
            *check_counts(config, ["in_channels", "out_channels", "conv_in_kernel", "conv_out_kernel"]),
            *check_counts(config, ["time_cond_proj_dim"], optional=True),
            *check_classes(config),
            *check_layers_per_block(config),
            *check_lengths(config, ["attention_head_dim", "cross_attention_dim"]),
            *check_set(config, ["norm_eps", "freq_shift", "mid_block_scale_factor", "downsample_padding"]),
            *check_activation(config, "act_fn"),
            *check_time_values(config),
            *check_choice(config, "time_embedding_type", ("positional",)),
            *check_plain_groups(config),
            *check_sample_size(config),
            *missing_partners(config),
            *find_unusable(config),
            *uneven_depths(config),
            *one_for_each_value(problem for block in list_blocks(config) if block.crosses for problem in _block_problems(config, block)),
        ]
        return list(dict.fromkeys(found))

    def assumed_vae_scale(self, config: Config) -> int:
        return 4

    def sample_size(self, config: Config) -> Given[Size]:
        """Return what the pipeline runs: a `sample_size` is a length in time, and the mel bins of its vocoder are 64."""
        own = super().sample_size(config)
        if is_list(config["sample_size"]) or config["sample_size"] is None:
            return own
        return Given((own.value[0], _MEL_CELLS), f"{own.said_by}, {_MEL_CELLS} wide: the 64 mel bins that the pipeline runs it on")


def _text(name: str, width: int | None, plan: Plan, tokens: int) -> InputSpec:
    if width is None:
        return InputSpec(name, None, (), "cross_attention_dim")
    return InputSpec(name, (plan.batch, plan.tokens or tokens, width), ("batch", "tokens", "cross_attention_dim"), "cross_attention_dim")


def _text_widths(config: Config) -> tuple[int | None, int | None]:
    """Return the widths of both texts; None: no transformer reads it, or each attends to its own block's hidden states.

    Raises:
        ConfigError: The blocks do not agree on them.
    """
    wanted = config["cross_attention_dim"]
    crossing = [(_row(config, block), block.channels) for block in list_blocks(config) if block.crosses]
    first = [(width, channels) for row, channels in crossing for width in row[:_FIRST_TEXT] if width is not None]
    second = [(width, channels) for row, channels in crossing for width in row[_FIRST_TEXT:] if width is not None]
    width = common_width(first, wanted, hint=_SAME_WIDTHS)
    if width is not None:
        # A block that is given no second text takes the first one for it: none can attend to its own hidden states.
        second += [(asked, 0) for asked, _ in second[:1]]
    return width, common_width(second, wanted, hint=_SAME_WIDTHS)


def _row(config: Config, block: Block) -> list[Any]:
    value = entry(config["cross_attention_dim"], block.place)
    return list(value) if is_list(value) else [value]


def _block_problems(config: Config, block: Block) -> Iterator[str]:
    """Find what the transformers of a block cannot use."""
    widths, row = config["cross_attention_dim"], entry(config["cross_attention_dim"], block.place)
    if is_list(row) and len(row) > _MOST_TRANSFORMERS:
        yield f"cross_attention_dim holds {list(row)} for {block.path}, and must hold {_MOST_TRANSFORMERS} widths at most"
    if not all(is_count(width) or (width is None and is_list(row)) for width in _row(config, block)):
        holds = f"holds {row!r} for {block.path}" if is_list(widths) else f"is {row!r}"
        yield f"cross_attention_dim {holds}, and must hold whole numbers above 0, or a row of them and of null"
    if block.layers <= 0:
        yield f"layers_per_block is {block.layers} for {block.path}, and must be at least 1: its layers share its transformers out"
    depth = entry(config["transformer_layers_per_block"], block.place)
    if not isinstance(depth, int):
        yield f"transformer_layers_per_block holds {depth!r} for {block.path}, and must hold a whole number"
    yield from check_block_heads(config, "attention_head_dim", block)
