"""`I2VGenXLUNet`: video from an image and a text."""

from __future__ import annotations

from unetinspect.unets.base import Builder, Config, Given, InputSpec, Plan
from unetinspect.unets.block_rules import check_3d_blocks
from unetinspect.unets.blocks_video import DOWN_BLOCKS_3D, UP_BLOCKS_3D
from unetinspect.unets.config_rules import check_counts, check_sample_size
from unetinspect.unets.video_inputs import frames_of, pipeline_frames, text, video_sample

_LATENT_CHANNELS = 4  # image_latents_proj_in takes these, whatever in_channels says


class I2VGenXLInputs(Builder):
    """sample, timestep, fps, the image as latents and as an embedding, encoder_hidden_states."""

    class_name = "I2VGenXLUNet"
    what = "video from an image and a text: I2VGen-XL"
    medium = "video"

    def condition(self, config: Config) -> str:
        return "encoder_hidden_states"

    def inputs(self, config: Config, plan: Plan) -> list[InputSpec]:
        latents = (plan.batch, _LATENT_CHANNELS, frames_of(plan), *plan.size)
        image = (plan.batch, config["cross_attention_dim"])
        return [
            video_sample(config, plan),
            InputSpec("timestep", (), (), None, "int64"),
            InputSpec("fps", (plan.batch,), ("batch",), None, "int64"),
            InputSpec("image_latents", latents, ("batch", "latent_channels", "frames", "height", "width")),
            InputSpec("image_embeddings", image, ("batch", "cross_attention_dim"), "cross_attention_dim"),
            text(config, plan, plan.tokens or self.default_tokens),
        ]

    def problems(self, config: Config) -> list[str]:
        return [
            *check_3d_blocks(config, DOWN_BLOCKS_3D, UP_BLOCKS_3D),
            *check_counts(config, ["cross_attention_dim"]),
            *check_sample_size(config),
        ]

    def assumed_vae_scale(self, config: Config) -> int:
        return 8

    def frames(self, config: Config) -> Given[int]:
        return pipeline_frames("I2VGenXLPipeline")
