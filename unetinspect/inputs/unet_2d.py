"""`UNet2DModel`: an unconditional UNet, or one that is told a class."""

from __future__ import annotations

from unetinspect.inputs.base import Builder, Config, InputSpec, Plan
from unetinspect.inputs.blocks_2d import ACTIVATIONS, DOWN_BLOCKS_2D, SKIP_DOWN_BLOCKS_2D, SKIP_UP_BLOCKS_2D, UP_BLOCKS_2D
from unetinspect.inputs.config_rules import (
    check_block_lists,
    check_block_names,
    check_choice,
    check_counts,
    check_groups,
    check_per_block,
    check_sample_size,
    check_set,
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
            *check_counts(config, ["norm_num_groups", "attention_head_dim", "num_class_embeds", "attn_norm_num_groups"], optional=True),
            *check_per_block(config, ["layers_per_block"], least=0),
            *check_set(config, ["dropout", "norm_eps", "freq_shift", "mid_block_scale_factor", "downsample_padding"]),
            *check_choice(config, "act_fn", ACTIVATIONS),
            *check_choice(config, "time_embedding_type", ("positional", "fourier", "learned")),
            *check_choice(config, "downsample_type", ("conv", "resnet", None)),
            *check_choice(config, "upsample_type", ("conv", "resnet", None)),
            *check_groups(config),
            *check_sample_size(config),
            *self._learned_without_steps(config),
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

    def _learned_without_steps(self, config: Config) -> list[str]:
        if config["time_embedding_type"] == "learned" and config["num_train_timesteps"] is None:
            return ["time_embedding_type is 'learned', which needs num_train_timesteps"]
        return []
