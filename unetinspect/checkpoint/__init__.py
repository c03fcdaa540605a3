"""Checkpoints by their headers: what tensors a file holds, and what they are. Reads no weight, and knows neither torch nor diffusers."""
