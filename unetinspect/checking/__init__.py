"""What would go wrong with a UNet: its config, its sizes, a checkpoint that does not fit, what was expected of it."""
