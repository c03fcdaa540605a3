"""Tensors of different dtypes or on different devices."""

from __future__ import annotations

import re

from unetinspect.explain.recogniser import Recogniser, Said, Scene, explained, message
from unetinspect.record import ErrorExplanation


def _explain_dtype(match: re.Match[str], scene: Scene) -> ErrorExplanation | None:
    return explained(
        match,
        scene,
        Said(
            "dtype",
            "A module's weights have one dtype and what it was given has another. A UNet's forward casts nothing but the timestep's "
            "embedding: "
            "sample, encoder_hidden_states, added_cond_kwargs and residuals must all have the dtype of its weights (unet.dtype).",
            (),
            (),
            [
                "cast every input: latents.to(unet.dtype), prompt_embeds.to(unet.dtype), and the same for ControlNet, VAE and text encoder",
                (
                    "load all parts of a pipeline with one torch_dtype; in training run the forward under torch.autocast, or keep the "
                    "weights in float32"
                ),
            ],
        ),
    )


def _explain_device(match: re.Match[str], scene: Scene) -> ErrorExplanation | None:
    meta = "meta" in match[0] or scene.shows("is_meta")
    return explained(
        match,
        scene,
        Said(
            "device",
            "The UNet's weights are on one device and an input, or a part that is plugged in, is on another."
            + (" One of them is on meta: weights that were never loaded, only their shapes are there." if meta else ""),
            (),
            (),
            [
                (
                    "move every input: x.to(unet.device), the timestep and added_cond_kwargs too; after loading a ControlNet, LoRA or "
                    "IP-Adapter call "
                    "pipeline.to(device) again"
                ),
                "with enable_model_cpu_offload() do not call .to(device) on parts by hand",
                *(["load the weights with from_pretrained, or give the empty module a device: unet.to_empty(device=...)"] if meta else []),
            ],
        ),
    )


_TYPE = r"\(?[\w:.\s]{1,60}\)?"
RECOGNISERS = (
    Recogniser(message(rf"Input type {_TYPE} and (?:bias|weight) type {_TYPE} should be (?:the )?same"), _explain_dtype),
    Recogniser(message(r"mat1 and mat2 must have the same dtype"), _explain_dtype),
    Recogniser(message(r"expected m1 and m2 to have the same dtype"), _explain_dtype),
    Recogniser(message(r"expected mat1 and mat2 to have the same dtype"), _explain_dtype),
    Recogniser(message(r"Expected query, key, and value to have the same dtype"), _explain_dtype),
    Recogniser(message(r"expected scalar type \w{1,20} but found \w{1,20}"), _explain_dtype),
    Recogniser(message(r"Expected all tensors to be on the same device[^\n]{0,200}"), _explain_device),
    Recogniser(message(r"Tensor on device \S{1,20} is not on the expected device \S{1,20}"), _explain_device),
    Recogniser(message(r"Expected query, key, and value to have the same device type[^\n]{0,200}"), _explain_device),
    Recogniser(message(r"Cannot copy out of meta tensor; no data!"), _explain_device),
)
