"""`identify` of files that are no UNet and no adapter of one: nothing that transformers and diffusers build beside UNets is called one."""

from __future__ import annotations

from pathlib import Path

import diffusers
import pytest
import torch
import transformers
import yaml

from tests.checkpoints import Shapes, header_of
from tests.tiny import some
from unetinspect.checkpoint.identify import identify

_MODELS = yaml.safe_load(Path(__file__).with_name("foreign_models.yaml").read_text(encoding="utf-8"))
OTHERS = {"unknown", "text_encoder", "image_encoder", "vae", "transformer"}


def built(name: str) -> Shapes:
    """Build a model with the default config of its class on meta, with a few layers, and return its names and shapes."""
    with torch.device("meta"):
        if name in _MODELS["diffusers"]:
            return {key: tuple(tensor.shape) for key, tensor in getattr(diffusers, name)().state_dict().items()}
        config = transformers.CONFIG_MAPPING[name]()
        for key in ("num_hidden_layers", "n_layer", "num_layers", "n_layers", "encoder_layers", "decoder_layers"):
            if isinstance(getattr(config, key, None), int):
                setattr(config, key, 2)
        model = transformers.AutoModel.from_config(config)
    return {key: tuple(tensor.shape) for key, tensor in model.state_dict().items()}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", [*some([*_MODELS["transformers"], *_MODELS["diffusers"]], 3), "ConsistencyDecoderVAE"])
def test_what_is_no_unet_is_not_called_one(name: str) -> None:
    """Under its own names and behind a prefix; a class is named for no other class."""
    shapes = built(name)
    for prefix in ("", "model.", "net.module."):
        found = identify(header_of(shapes, prefix=prefix))

        assert found.content in OTHERS
        assert found.class_name in (None, name)
        assert (found.models, found.config) == ((), None)


@pytest.mark.parametrize(
    "names",
    [
        ["model.0.weight", "model.1.sub.0.RDB1.conv1.0.weight", "model.3.weight", "model.10.weight"],  # ESRGAN
        ["conv_first.weight", "body.0.rdb1.conv1.weight", "conv_up1.weight", "conv_last.weight"],  # Real-ESRGAN
        ["layers.0.residual_group.blocks.0.attn.qkv.weight", "conv_first.weight", "upsample.0.weight"],  # SwinIR
        ["encoder.down_path.0.block.0.weight", "up_path.0.up.weight", "last.weight"],  # a U-Net for segmentation
        ["inc.double_conv.0.weight", "down1.maxpool_conv.1.double_conv.0.weight", "up1.up.weight", "outc.conv.weight"],  # another
    ],
)
def test_upscalers_and_u_nets_for_segmentation_are_unknown(names: list[str]) -> None:
    """They share words with a diffusion UNet, and nothing else."""
    assert identify(header_of(dict.fromkeys(names, (64, 64, 3, 3)))).content == "unknown"
