"""What stops a ControlNet, a T2I-Adapter or a UNet with a ControlNet in it: each mistake in its own words, and in diffusers."""

from __future__ import annotations

import diffusers
import pytest
import torch

from tests.kinds_plugs import Config, adapter, controlnet, union, xs
from unetinspect import trace
from unetinspect.errors import ConfigError
from unetinspect.run.build import make_inputs
from unetinspect.run.resolve import resolve_config
from unetinspect.unets import Plan, builder_for

MISTAKES = {
    "blocks": (controlnet(down_block_types=["DownBlock2D"]), ["must be of one length: down_block_types has 1, block_out_channels has 2"]),
    "skip-block": (
        controlnet(down_block_types=["SkipDownBlock2D", "DownBlock2D"]),
        ["down_block_types holds 'SkipDownBlock2D', which is no block for this class (did you mean KDownBlock2D?)"],
    ),
    "no-mid-block": (
        controlnet(mid_block_type=None),
        ["mid_block_type is None, and must be one of: UNetMidBlock2DCrossAttn, UNetMidBlock2D"],
    ),
    "image-proj": (
        controlnet(encoder_hid_dim_type="image_proj", encoder_hid_dim=8),
        ["encoder_hid_dim_type is 'image_proj', and must be one of: null, text_proj, text_image_proj"],
    ),
    "no-text-width": (
        controlnet(cross_attention_dim=None),
        ["cross_attention_dim is None, and must be a whole number above 0: CrossAttnDownBlock2D reads it"],
    ),
    "two-text-widths": (
        controlnet(addition_embed_type="text", addition_embed_type_num_heads=2, encoder_hid_dim=12),
        ["encoder_hid_dim is 12, and must be cross_attention_dim, 24: addition_embed_type 'text' reads the same text"],
    ),
    "text-heads": (
        controlnet(addition_embed_type="text", addition_embed_type_num_heads=5),
        ["addition_embed_type_num_heads is 5, and must divide the width of the text, 24"],
    ),
    "text-time-alone": (
        controlnet(addition_embed_type="text_time"),
        [
            "addition_embed_type is 'text_time', which needs addition_time_embed_dim",
            "addition_embed_type is 'text_time', which needs projection_class_embeddings_input_dim",
        ],
    ),
    "no-image-embedding": (
        controlnet(conditioning_embedding_out_channels=None),
        ["conditioning_embedding_out_channels is None, and must be a list of whole numbers above 0 with at least one entry"],
    ),
    "channel-order": (
        controlnet(controlnet_conditioning_channel_order="grb"),
        ["controlnet_conditioning_channel_order is 'grb', and must be one of: rgb, bgr"],
    ),
    "groups": (controlnet(norm_num_groups=24), ["block_out_channels holds 32, 64, which norm_num_groups 24 does not divide"]),
    "heads": (
        controlnet(attention_head_dim=[48, 80]),
        [
            "attention_head_dim holds 48 for the down block 0, and must be at most its 32 channels",
            "attention_head_dim holds 80 for the mid block, and must be at most its 64 channels",
        ],
    ),
    "depths": (
        controlnet(layers_per_block=2, transformer_layers_per_block=[[1], 1]),
        ["transformer_layers_per_block holds [1] for the down block 0, and must have an entry for each of 2 layers"],
    ),
    "short-depths": (
        controlnet(transformer_layers_per_block=[1]),
        ["transformer_layers_per_block has 1 entries, and must have one for each of the 2 down_block_types"],
    ),
    "no-layers": (
        controlnet(layers_per_block=0),
        ["layers_per_block is 0, and must be at least 1 where block_out_channels change: a resnet changes them"],
    ),
    "k-block-above": (
        controlnet(down_block_types=["KDownBlock2D", "DownBlock2D"]),
        ["down_block_types holds KDownBlock2D, whose skips fit a ControlNet only where all further block_out_channels are the same"],
    ),
    "k-block-below": (
        controlnet(down_block_types=["DownBlock2D", "KCrossAttnDownBlock2D"]),
        ["down_block_types ends with KCrossAttnDownBlock2D, which pushes no skips there that a ControlNet could take"],
    ),
    "union-order": (
        union(controlnet_conditioning_channel_order="bgr"),
        ["controlnet_conditioning_channel_order is 'bgr', and must be one of: rgb"],
    ),
    "union-kinds": (
        union(addition_time_embed_dim=None),
        ["addition_time_embed_dim is None, and must be a whole number above 0"],
    ),
    "union-widths": (
        union(num_trans_channel=16, num_proj_channel=64),
        [
            "num_trans_channel is 16, and must be the first of block_out_channels, 32",
            "num_proj_channel is 64, and must be the first of block_out_channels, 32",
        ],
    ),
    "union-heads": (union(num_trans_head=5), ["num_trans_head is 5, and must divide num_trans_channel, 32"]),
    "xs-lengths": (
        xs(ctrl_block_out_channels=[6], up_block_types=["UpBlock2D"]),
        ["must be of one length: down_block_types has 2, up_block_types has 1, block_out_channels has 2, ctrl_block_out_channels has 1"],
    ),
    "xs-heads": (
        xs(num_attention_heads=[4, 80], ctrl_num_attention_heads=12),
        [
            *(
                f"num_attention_heads holds 80 for the {block}, and must be at most its 64 channels"
                for block in ("down block 1", "mid block", "up block 0")
            ),
            *(
                f"ctrl_num_attention_heads holds 12 for the {block}, and must be at most its 10 channels"
                for block in ("down block 1", "mid block")
            ),
        ],
    ),
    "xs-depths": (
        xs(transformer_layers_per_block=[1, [1, 2]]),
        ["transformer_layers_per_block holds [1, 2] for the up block 0, and must have an entry for each of 3 layers"],
    ),
    "xs-groups": (xs(norm_num_groups=24), ["block_out_channels holds 32, 64, which norm_num_groups 24 does not divide"]),
    "xs-control-groups": (xs(ctrl_max_norm_num_groups=0), ["ctrl_max_norm_num_groups is 0, and must be a whole number above 0"]),
    "xs-mix": (xs(time_embedding_mix=0.5), ["time_embedding_mix is 0.5, which below 1 needs ctrl_learn_time_embedding"]),
    "xs-mix-above": (xs(time_embedding_mix=1.5), ["time_embedding_mix is 1.5, and must be from 0 to 1"]),
    "xs-image": (xs(addition_embed_type="image"), ["addition_embed_type is 'image', and must be one of: null, text_time"]),
    "xs-text": (xs(addition_embed_type="text"), ["addition_embed_type is 'text', and must be one of: null, text_time"]),
    "adapter-type": (
        adapter(adapter_type="heavy_adapter"),
        ["adapter_type is 'heavy_adapter', and must be one of: full_adapter, full_adapter_xl, light_adapter"],
    ),
    "adapter-xl": (
        adapter(adapter_type="full_adapter_xl", channels=[8, 16, 32, 64]),
        [
            "channels is [8, 16, 32, 64], and must have one width from the third on: there full_adapter_xl changes it no more",
        ],
    ),
    "adapter-light": (
        adapter(adapter_type="light_adapter", channels=[3, 8]),
        ["channels holds 3, and must hold numbers from 4 on: light_adapter works on a quarter of them"],
    ),
    "adapter-empty": (adapter(channels=[]), ["channels is [], and must be a list of whole numbers above 0 with at least one entry"]),
    "adapter-fold": (adapter(downscale_factor=0), ["downscale_factor is 0, and must be a whole number above 0"]),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_named_and_diffusers_stumbles_over_it(mistake: str) -> None:
    """Each sentence stands alone for its mistake, and the config builds or runs in no diffusers either."""
    config, sentences = MISTAKES[mistake]
    with pytest.raises(ConfigError) as raised:
        check_config(resolve_config(config), name="it")

    assert list(raised.value.problems) == sentences
    assert not _runs(config)


def test_all_mistakes_are_found_at_once() -> None:
    """One sentence for each of three keys."""
    config = controlnet(act_fn="tanh", conditioning_channels=0, addition_embed_type="image")
    with pytest.raises(ConfigError) as raised:
        check_config(resolve_config(config), name="it")

    assert sorted(problem.split()[0] for problem in raised.value.problems) == ["act_fn", "addition_embed_type", "conditioning_channels"]


@pytest.mark.parametrize(
    "config",
    [
        xs(block_out_channels=[32, 32, 32], num_attention_heads=[4, 4, 4]),
        xs(up_block_types=["CrossAttnUpBlock2D"], block_out_channels=[32, 32]),
        xs(down_block_types=["Plain", "SomeCrossAttn"], transformer_layers_per_block=[1, 1, 1]),
        controlnet(attention_head_dim=[4, None], mid_block_type="UNetMidBlock2D"),
        controlnet(transformer_layers_per_block=[1, 2, 3]),
        controlnet(act_fn="SiLU"),
        adapter(adapter_type="full_adapter_xl", channels=[8, 16, 32, 64], num_res_blocks=0),
        adapter(channels=[8]),
    ],
)
def test_what_diffusers_runs_is_not_refused(config: Config) -> None:
    """Odd configs that no published model has, and that run."""
    check_config(resolve_config(config), name="it")

    assert _runs(config)
    assert trace(config, device="meta", latent=16).outputs


def _runs(config: Config) -> bool:
    """Tell whether diffusers builds the config, and runs it with the inputs that its builder gives."""
    builder = builder_for(config["_class_name"])
    try:
        with torch.device("meta"), torch.no_grad():
            values = resolve_config(config).values
            specs = builder.inputs(values, Plan(batch=2, size=(48, 48)))
            model = getattr(diffusers, config["_class_name"]).from_config(config).eval()
            model(**make_inputs(specs, device=torch.device("meta"), dtype=torch.float32))
    except Exception:
        return False
    return True
