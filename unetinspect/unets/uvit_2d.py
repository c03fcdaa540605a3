"""`UVit2DModel`: aMUSEd's, which says for each cell of a grid which entry of a codebook belongs there."""

from __future__ import annotations

from collections.abc import Iterator

from unetinspect.unets.base import Builder, Config, InputSpec, Plan, is_count
from unetinspect.unets.config_rules import check_counts, check_dropout, check_sample_size, check_set

_COUNTS = (
    *("hidden_size", "cond_embed_dim", "micro_cond_encode_dim", "micro_cond_embed_dim", "encoder_hidden_size", "vocab_size"),
    *("codebook_size", "in_channels", "block_out_channels", "block_num_heads", "num_attention_heads"),
)


class UVit2DInputs(Builder):
    """input_ids (batch, height, width), encoder_hidden_states, pooled_text_emb, micro_conds."""

    class_name = "UVit2DModel"
    what = "image tokens from text: aMUSEd"

    def condition(self, config: Config) -> str:
        return "encoder_hidden_states"

    def inputs(self, config: Config, plan: Plan) -> list[InputSpec]:
        text = (plan.batch, plan.tokens or self.default_tokens, config["encoder_hidden_size"])
        micro = config["micro_cond_embed_dim"] // config["micro_cond_encode_dim"]
        return [
            InputSpec("input_ids", (plan.batch, *plan.size), ("batch", "height", "width"), "sample_size", "int64"),
            InputSpec("encoder_hidden_states", text, ("batch", "tokens", "encoder_hidden_size"), "encoder_hidden_size"),
            InputSpec("pooled_text_emb", (plan.batch, config["cond_embed_dim"]), ("batch", "cond_embed_dim"), "cond_embed_dim"),
            InputSpec("micro_conds", (plan.batch, micro), ("batch", "ids"), "micro_cond_embed_dim, micro_cond_encode_dim"),
        ]

    def problems(self, config: Config) -> list[str]:
        return [
            *check_counts(config, _COUNTS),
            *check_counts(config, ["intermediate_size"], optional=True),
            *check_set(config, ["layer_norm_eps", "num_res_blocks", "num_hidden_layers"]),
            *check_dropout(config, "hidden_dropout"),
            *check_dropout(config, "attention_dropout"),
            *check_sample_size(config),
            *_micro_conds_fit(config),
            *_heads_fit(config),
        ]

    def assumed_vae_scale(self, config: Config) -> int:
        return 16  # the VQ models of aMUSEd halve the image four times

    def halvings(self, config: Config) -> int:
        return 1 if config["downsample"] else 0


def _micro_conds_fit(config: Config) -> Iterator[str]:
    total, width = config["micro_cond_embed_dim"], config["micro_cond_encode_dim"]
    if is_count(total) and is_count(width) and total % width:
        yield f"micro_cond_embed_dim is {total}, and must be a multiple of micro_cond_encode_dim, {width}: the width of one condition"


def _heads_fit(config: Config) -> Iterator[str]:
    for heads_key, width_key, layers_key in (
        ("num_attention_heads", "hidden_size", "num_hidden_layers"),
        ("block_num_heads", "block_out_channels", "num_res_blocks"),
    ):
        heads, width = config[heads_key], config[width_key]
        if is_count(heads) and is_count(width) and heads > width and config[layers_key] != 0:
            yield f"{heads_key} is {heads}, and must be at most {width_key}, {width}"
