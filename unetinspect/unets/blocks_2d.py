"""The 2-D block types of diffusers, as its `get_down_block`, `get_mid_block` and `get_up_block` know them.

Left out are the blocks of its autoencoders (`DownEncoderBlock2D`), which return no skips: no UNet class can run them.
"""

DOWN_BLOCKS_2D = (
    "DownBlock2D",
    "ResnetDownsampleBlock2D",
    "AttnDownBlock2D",
    "KDownBlock2D",
)
UP_BLOCKS_2D = (
    "UpBlock2D",
    "ResnetUpsampleBlock2D",
    "AttnUpBlock2D",
    "KUpBlock2D",
)
# They read encoder_hidden_states.
CROSS_DOWN_BLOCKS_2D = ("CrossAttnDownBlock2D", "SimpleCrossAttnDownBlock2D", "KCrossAttnDownBlock2D")
CROSS_UP_BLOCKS_2D = ("CrossAttnUpBlock2D", "SimpleCrossAttnUpBlock2D", "KCrossAttnUpBlock2D")
# They hand on a second image beside the hidden states.
SKIP_DOWN_BLOCKS_2D = ("SkipDownBlock2D", "AttnSkipDownBlock2D")
SKIP_UP_BLOCKS_2D = ("SkipUpBlock2D", "AttnSkipUpBlock2D")

MID_BLOCKS_2D = ("UNetMidBlock2DCrossAttn", "UNetMidBlock2DSimpleCrossAttn", "UNetMidBlock2D", None)
ACTIVATIONS = ("silu", "swish", "mish", "gelu", "relu")
