"""`UNet3DConditionModel`: ModelScope's text to video, a 2-D UNet with convolutions and attention along the frames."""

from __future__ import annotations

from unetinspect.unets.base import Builder, Config, Given, InputSpec, Plan, is_list
from unetinspect.unets.block_rules import check_3d_blocks
from unetinspect.unets.blocks_video import DOWN_BLOCKS_3D, UP_BLOCKS_3D
from unetinspect.unets.config_rules import check_activation, check_counts, check_sample_size, check_set
from unetinspect.unets.unet_2d_condition import timestep_cond
from unetinspect.unets.video_inputs import pipeline_frames, reads_text, text, video_sample


class UNet3DConditionInputs(Builder):
    """sample (batch, in_channels, frames, height, width), timestep, encoder_hidden_states, timestep_cond where it is projected."""

    class_name = "UNet3DConditionModel"
    what = "video from text: ModelScope, Zeroscope"
    medium = "video"

    def condition(self, config: Config) -> str | None:
        return "encoder_hidden_states" if reads_text(config) else None

    def inputs(self, config: Config, plan: Plan) -> list[InputSpec]:
        return [
            video_sample(config, plan),
            InputSpec("timestep", (), (), None, "int64"),
            text(config, plan, plan.tokens or self.default_tokens),
            *timestep_cond(config, plan.batch),
        ]

    def problems(self, config: Config) -> list[str]:
        return [
            *check_3d_blocks(config, DOWN_BLOCKS_3D, UP_BLOCKS_3D),
            *check_counts(config, ["cross_attention_dim"], optional=not _crosses(config)),
            *check_counts(config, ["time_cond_proj_dim"], optional=True),
            *check_set(config, ["downsample_padding", "mid_block_scale_factor", "norm_eps"]),
            *check_activation(config, "act_fn"),
            *check_sample_size(config),
            *self._refused(config),
        ]

    def assumed_vae_scale(self, config: Config) -> int:
        return 8

    def frames(self, config: Config) -> Given[int]:
        return pipeline_frames("TextToVideoSDPipeline")

    def _refused(self, config: Config) -> list[str]:
        if config["num_attention_heads"] is None:
            return []
        return ["num_attention_heads is set, which diffusers refuses: attention_head_dim holds the channels of a head here"]


def _crosses(config: Config) -> bool:
    """Tell whether a block insists on a cross_attention_dim: all but the mid block do that have cross-attention."""
    lists = [config["down_block_types"], config["up_block_types"]]
    return any("CrossAttn" in str(kind) for kinds in lists if is_list(kinds) for kind in kinds)
