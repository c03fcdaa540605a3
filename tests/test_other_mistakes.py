"""What the single UNets refuse: mistakes in a config, each of which diffusers stumbles over too, and what they must not refuse."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tests.kinds_other import AUDIO, AUDIOLDM2, DECODER, DREAMLITE, KANDINSKY, KINDS, PRIOR, TEMPORAL, UVIT, VALUE_FUNCTION, Config
from tests.kinds_plugs import controlnet, xs
from tests.kinds_video import I2VGEN, MOTION, SPARSE, SVD, UNET_3D
from tests.tiny import CONDITION, PLAIN
from tests.tiny import KINDS as TINY
from unetinspect import trace
from unetinspect.errors import ConfigError
from unetinspect.run.build import make_inputs
from unetinspect.run.resolve import diffusers_class, resolve_config
from unetinspect.unets import Plan, builder_for

TEXTS_OF_ITS_OWN = KINDS["audioldm2-own-hidden-states"]
HEADS = "and must be at most its"
MISTAKES: list[tuple[Config, Config, str]] = [
    (
        AUDIO,
        {"extra_in_channels": 8, "time_embedding_dim": 6},
        "extra_in_channels is 8, and must be 6, the channels of the time embedding (time_embedding_dim) that DownBlock1DNoSkip appends",
    ),
    (AUDIO, {"time_embedding_dim": 5}, "time_embedding_dim is 5, and must be even: sines and cosines share it"),
    (
        AUDIO,
        {"use_timestep_embedding": True, "act_fn": "silu"},
        "use_timestep_embedding is true, and DownBlock1DNoSkip must have a time embedding that is as long as the sample",
    ),
    (
        AUDIO,
        {"block_out_channels": [32, 32, 48, 64]},
        "down_block_types has 3 entries, and must have one for each of the 4 block_out_channels",
    ),
    (
        TEMPORAL,
        {"use_timestep_embedding": False},
        "use_timestep_embedding is false, and must be true for DownResnetBlock1D, MidResTemporalBlock1D, UpResnetBlock1D",
    ),
    (TEMPORAL, {"block_out_channels": [8, 12, 32]}, "the temporal blocks leave 12 channels, which their 8 norm groups do not divide"),
    (
        VALUE_FUNCTION,
        {"up_block_types": ["UpResnetBlock1D"]},
        "mid_block_type is 'ValueFunctionMidBlock1D', which leaves a quarter of the channels and fits no up_block_types",
    ),
    (
        KANDINSKY,
        {"layers_per_block": 1},
        "layers_per_block is 1, and must be at least 2: the last layer of an up block changes its channels",
    ),
    (
        KANDINSKY,
        {"block_out_channels": [8] * 5},
        "block_out_channels has 5 entries, and must have 4 at most: diffusers builds no more levels",
    ),
    (KANDINSKY, {"groups": 3}, "groups is 3, and must divide 8, 16, 32, 64, which group norms have by block_out_channels"),
    (
        PRIOR,
        {"num_attention_heads": [2, None]},
        (
            "num_attention_heads holds None for level 1, and must be a whole number above 0 and at most its 32 channels:"
            " it has SDCascadeAttnBlock"
        ),
    ),
    (PRIOR, {"dropout": [0.1, 1.5]}, "dropout holds 1.5, and must be between 0 and 1"),
    (PRIOR, {"dropout": 1}, "dropout is 1, and must be a list or a value like 0.1"),
    (PRIOR, {"kernel_size": 2}, "kernel_size is 2, and must be odd: an even one changes the size of the sample"),
    (
        DECODER,
        {"up_num_layers_per_block": [2, 1]},
        "up_num_layers_per_block has 2 entries, and must have one for each of the 3 block_out_channels",
    ),
    (
        UVIT,
        {"micro_cond_embed_dim": 18},
        "micro_cond_embed_dim is 18, and must be a multiple of micro_cond_encode_dim, 4: the width of one condition",
    ),
    (UVIT, {"block_num_heads": 13}, "block_num_heads is 13, and must be at most block_out_channels, 12"),
    (DREAMLITE, {"num_kv_heads": 3}, "num_kv_heads is 3 for down_blocks.0, and must divide its 4 heads (attention_head_dim)"),
    (
        DREAMLITE,
        {"qk_norm": "rms_norm_across_heads"},
        "qk_norm is 'rms_norm_across_heads' for down_blocks.0, which normalises each of its 4 heads alone",
    ),
    (DREAMLITE, {"timestep_post_act": "tanh"}, "timestep_post_act is 'tanh', and must be one of: silu, swish, mish, gelu, relu"),
    (
        DREAMLITE,
        {"cross_attention_dim": [None, 24, 24]},
        "cross_attention_dim holds None for down_blocks.0, and must hold a whole number above 0",
    ),
    (
        AUDIOLDM2,
        {"cross_attention_dim": [[12], [12] * 5]},
        "cross_attention_dim holds [12, 12, 12, 12, 12] for down_blocks.1, and must hold 4 widths at most",
    ),
    (AUDIOLDM2, {"timestep_post_act": "tanh"}, "timestep_post_act is 'tanh', and must be one of: silu, swish, mish, gelu, relu"),
    (AUDIOLDM2, {"time_embedding_dim": -4}, "time_embedding_dim is -4, and must be a whole number from 0 on"),
    (
        TEXTS_OF_ITS_OWN,
        {"layers_per_block": 0},
        "layers_per_block is 0 for down_blocks.0, and must be at least 1: its layers share its transformers out",
    ),
    (AUDIOLDM2, {"mid_block_type": None}, "mid_block_type is None, and must be one of: UNetMidBlock2DCrossAttn"),
    (CONDITION, {"layers_per_block": [1, None]}, "layers_per_block holds None, and must hold whole numbers from 0 on"),
    (CONDITION, {"attention_head_dim": [33, 4]}, f"attention_head_dim is 33 for down_blocks.0, {HEADS} 32 channels"),
    (CONDITION, {"dropout": 1.5}, "dropout holds 1.5, and must be between 0 and 1"),
    (CONDITION, {"time_embedding_dim": -1}, "time_embedding_dim is -1, and must be a whole number from 0 on"),
    (
        CONDITION,
        {"resnet_time_scale_shift": "ada_group"},
        "resnet_time_scale_shift is 'ada_group', and must be one of: default, scale_shift",
    ),
    (CONDITION, {"reverse_transformer_layers_per_block": 2}, "reverse_transformer_layers_per_block is 2, and must be a list or null"),
    (CONDITION, {"layers_per_block": 0}, "layers_per_block is 0 for down_blocks.1, which must turn 32 channels into 64"),
    (
        CONDITION,
        {"encoder_hid_dim": 12, "cross_attention_dim": [24, 24]},
        "cross_attention_dim is a list, and must be one number for encoder_hid_dim 12",
    ),
    (CONDITION, {"addition_embed_type": "text"}, "addition_embed_type_num_heads is 64, and must divide the width of the text, 24"),
    (
        TINY["class-concat"],
        {"class_embed_type": "Foo"},
        "class_embed_type is 'Foo', and must be one of: null, timestep, identity, projection, simple_projection",
    ),
    (TINY["simple-cross-attention"], {"attention_head_dim": 40}, f"attention_head_dim is 40 for down_blocks.0, {HEADS} 32 channels"),
    (PLAIN, {"attention_head_dim": 48}, f"attention_head_dim holds 48 for the down block 1, {HEADS} 32 channels"),
    (
        TINY["k-blocks"],
        {"down_block_types": ["DownBlock2D", *TINY["k-blocks"]["down_block_types"][1:]]},
        "norm_num_groups is null, which only K-blocks and skip blocks can do without",
    ),
    (PLAIN, {"num_class_embeds": 0}, "num_class_embeds is 0, and must be a whole number above 0"),
    (PLAIN, {"attn_norm_num_groups": 3}, "attn_norm_num_groups is 3, and must divide the 32 channels of the mid block"),
    (TINY["skip-blocks"], {"in_channels": 4}, "in_channels is 4, and must be 3: SkipDownBlock2D carries an image of 3 channels along"),
]
RUNS: list[tuple[Config, Config]] = [
    (PLAIN, {"act_fn": "SiLU"}),
    (PLAIN, {"down_block_types": ["DownBlock2D"] * 2, "downsample_type": "unread"}),
    (UVIT, {"intermediate_size": None}),
    *((config, {"num_class_embeds": 0}) for config in (TINY["class-identity"], TINY["plain-class-identity"])),
    (CONDITION, {"down_block_types": ["UNetResCrossAttnDownBlock2D", "DownBlock2D"]}),
    (CONDITION, {"time_embedding_dim": 0}),
    (PRIOR, {"num_attention_heads": [2, 4, None], "dropout": [0, 1, 7]}),
    *((config, {"sample_size": [8, 12]}) for config in (UNET_3D, I2VGEN, MOTION, SVD, xs(), UVIT)),
    (MOTION, {"cross_attention_dim": [24, 24]}),
    (SPARSE, {"cross_attention_dim": [24, 24], "motion_num_attention_heads": [2, 4]}),
]

# What configs of others name, and what is said of it.
NO_CLASS_OF_OURS = {
    "UNetUnconditionalModel": "diffusers calls it UNet2DModel today; also rename the keys of an old config: image_size to sample_size,",
    "NCSNpp": "diffusers calls it UNet2DModel today, with other keys: see `unetinspect config ncsnpp-church-256`",
    "UNetGLIDEModel": "diffusers no longer has it",
    "UNetFlatConditionModel": "it is the text UNet of Versatile Diffusion",
    "ControlNetXSAdapter": "it runs inside a UNet alone: trace the UNetControlNetXSModel",
    "InteractDiffusionUNet2DConditionModel": "if it is a UNet2DConditionModel with additions, that one is traced without them; supported:",
    "UNet2DConditonModel": "did you mean UNet2DConditionModel? supported:",
    "AutoencoderKL": "supported:",
}


def _ids(rows: list[Any]) -> list[str]:
    return [f"{config['_class_name']}-{'-'.join(keys)}" for config, keys, *_ in rows]


@pytest.mark.parametrize(("config", "keys", "sentence"), MISTAKES, ids=_ids(MISTAKES))
def test_each_mistake_is_named_and_diffusers_stumbles_over_it(config: Config, keys: Config, sentence: str) -> None:
    """One sentence on each mistake; and the same config, built and run by diffusers itself, raises."""
    with pytest.raises(ConfigError) as refused:
        trace({**config, **keys}, device="meta")

    assert refused.value.problems == (sentence,)
    assert not _runs({**config, **keys}, config)


@pytest.mark.parametrize(("config", "keys"), RUNS, ids=_ids(RUNS))
def test_what_diffusers_runs_is_not_refused(config: Config, keys: Config) -> None:
    """Lists where a constructor declares one value, values that nothing reads, names in another case."""
    trace({**config, **keys}, device="meta", latent=None if "sample_size" in keys else 8)

    assert _runs({**config, **keys}, {**config, **keys})


@pytest.mark.parametrize("name", NO_CLASS_OF_OURS)
def test_a_class_that_cannot_be_traced_says_which_one_can(name: str) -> None:
    """Old names, classes that are parts of others, and classes that others made of one; a stranger is not taken for a slip of the pen."""
    with pytest.raises(ConfigError) as refused:
        trace({"_class_name": name}, device="meta")

    assert refused.value.message == f"{name} is not a UNet class that can be traced"
    assert (refused.value.hint or "").startswith(NO_CLASS_OF_OURS[name])


@pytest.mark.parametrize("kind", KINDS)
def test_no_kind_has_a_problem(kind: str) -> None:
    """Each of the small configs is known to run."""
    check_config(resolve_config(KINDS[kind]), name=kind)


def test_a_list_is_refused_where_the_class_takes_none() -> None:
    """A key that may hold one value per block in one class is still held to the rules of the others."""
    for config in (UNET_3D, controlnet(), KANDINSKY):
        with pytest.raises(ConfigError) as refused:
            trace({**config, "cross_attention_dim": [24, 24]}, device="meta")
        assert refused.value.problems[0].startswith("cross_attention_dim is [24, 24], and must be a whole number above 0")


def test_a_class_that_this_diffusers_lacks_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """An older diffusers has no DreamLite: that is said in a sentence, before anything is built."""
    monkeypatch.setattr(builder_for("DreamLiteUNetModel"), "module", "diffusers.utils")

    with pytest.raises(ConfigError, match="has no DreamLiteUNetModel"):
        trace(DREAMLITE, device="meta")


def _runs(config: Config, sizes_of: Config) -> bool:
    """Build a config with diffusers and run it on the CPU, with the inputs that its class takes, of the widths of another config."""
    right = resolve_config(sizes_of)
    builder = builder_for(right.class_name)
    size = builder.sample_size(right.values).value if len(builder.size_axes) == 1 else (16, 16)
    specs = builder.inputs(right.values, Plan(batch=2, size=size, tokens=5, frames=2))
    try:
        with torch.no_grad():
            unet = diffusers_class(right.class_name).from_config(resolve_config(config).values).eval()
            unet(**make_inputs(specs, device=torch.device("cpu"), dtype=torch.float32))
    except Exception:  # whatever it raises, it does not run
        return False
    return True
