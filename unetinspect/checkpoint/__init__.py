"""Checkpoints by their headers: which tensors a file has, and what they are. Reads no weights, imports neither torch nor diffusers."""
