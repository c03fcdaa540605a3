"""The block types of diffusers' video UNets, as their own `get_down_block` and `get_up_block` know them."""

DOWN_BLOCKS_3D = ("CrossAttnDownBlock3D", "DownBlock3D")
UP_BLOCKS_3D = ("UpBlock3D", "CrossAttnUpBlock3D")
DOWN_BLOCKS_MOTION = ("CrossAttnDownBlockMotion", "DownBlockMotion")
UP_BLOCKS_MOTION = ("UpBlockMotion", "CrossAttnUpBlockMotion")
DOWN_BLOCKS_SPATIO_TEMPORAL = ("CrossAttnDownBlockSpatioTemporal", "DownBlockSpatioTemporal")
UP_BLOCKS_SPATIO_TEMPORAL = ("UpBlockSpatioTemporal", "CrossAttnUpBlockSpatioTemporal")
