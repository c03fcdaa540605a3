"""A CUDA device's time and memory, stage by stage."""
