"""Small pipelines with random weights: each is built from configs in well under a second, and nothing is fetched."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import diffusers
import torch
from diffusers import DDIMScheduler
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from tests.test_ports import ip_adapter
from tests.tiny import ALL, Config, condition, config_of, traced_once

PROMPT, NEGATIVE = "a cat and a zebra", "blurry"
WIDTH = 24  # of the text, `cross_attention_dim`
TOKENS = 16
SIDE = 32  # of an image in pixels; the sample is 16x16


@cache
def tokenizer(words: tuple[str, ...] = ("cat", "dog"), length: int = TOKENS) -> Any:
    """Build CLIP's tokenizer of letters and some words: each of these is one token, any other letter is a token."""
    letters = [*"abcdefghijklmnopqrstuvwxyz,"]
    pairs = [(word[:end], word[end] + "</w>" * (end == len(word) - 1)) for word in words for end in range(1, len(word))]
    merges = [*dict.fromkeys(pairs)]
    pieces = [*letters, *(f"{letter}</w>" for letter in letters), *map("".join, merges), "<|startoftext|>", "<|endoftext|>"]
    made: Any = CLIPTokenizer
    return made(vocab={piece: index for index, piece in enumerate(pieces)}, merges=merges, model_max_length=length)


def random(model: Any, seed: int = 0) -> Any:
    """Give a model random weights, in attention such that no map is flat; in eval mode."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        scale = 1 if name.rpartition(".")[0].endswith(("to_q", "to_k", "to_v", "to_out.0")) else 0.3
        fan_in = parameter[0].numel() if parameter.ndim > 1 else 1
        drawn = torch.randn(parameter.shape, generator=generator) * scale / fan_in**0.5
        parameter.data = (1 if name.endswith("weight") and parameter.ndim == 1 else 0) + drawn
    return model.eval()


def unet(config: str | Config = "conditioned", **keys: Any) -> Any:
    """Build a small model with random weights."""
    config = {**(ALL[config] if isinstance(config, str) else config), **keys}
    return random(getattr(diffusers, config["_class_name"]).from_config(config))


def text_encoder(kind: Any = CLIPTextModel, words: Any = None) -> Any:
    """Build a small text encoder for a tokenizer."""
    words = words or tokenizer()
    ids = {"bos_token_id": words.bos_token_id, "eos_token_id": words.eos_token_id, "vocab_size": len(words)}
    small = {"hidden_size": WIDTH, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "projection_dim": WIDTH}
    configured: Any = CLIPTextConfig
    return random(kind(configured(max_position_embeddings=words.model_max_length, **small, **ids)))


def vae(blocks: int = 2, sample_size: int = SIDE) -> Any:
    """Build a small VAE; each block but the first halves the image."""
    types = {"down_block_types": ["DownEncoderBlock2D"] * blocks, "up_block_types": ["UpDecoderBlock2D"] * blocks}
    channels = {"latent_channels": 4, "block_out_channels": [8] * blocks, "norm_num_groups": 4}
    return random(diffusers.AutoencoderKL(sample_size=sample_size, **channels, **types))


def ddim() -> DDIMScheduler:
    """Build the scheduler as Stable Diffusion configures it."""
    return DDIMScheduler(clip_sample=False, steps_offset=1)


def pipeline(kind: str = "StableDiffusionPipeline", *, scheduler: Any = None, **parts: Any) -> Any:
    """Build a pipeline of Stable Diffusion 1.x; `parts` are components that replace or join the small ones."""
    parts = {"unet": None, "vae": vae(), "text_encoder": text_encoder(), "tokenizer": tokenizer(), **parts}
    parts["unet"] = parts["unet"] or unet()
    optional = {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
    built = getattr(diffusers, kind)(scheduler=scheduler or ddim(), **optional, **parts)
    return quiet(built)


def stable_diffusion() -> Any:
    """Build what the docs load: the layers and heads of Stable Diffusion 1.5 with few channels, and a sample of a quarter of its size."""

    class TwoSteps(DDIMScheduler):
        """Samples in two steps, however many are asked for."""

        def set_timesteps(self, num_inference_steps: int, device: Any = None) -> None:
            super().set_timesteps(min(num_inference_steps, 2), device)  # type: ignore[misc]

    words = tokenizer(("cat", "dog", "garden", "in", "zebra"), length=77)
    small = diffusers.UNet2DConditionModel(sample_size=16, block_out_channels=(8,) * 4, norm_num_groups=4, cross_attention_dim=WIDTH)
    parts = {"unet": random(small), "vae": vae(blocks=6, sample_size=512), "tokenizer": words, "text_encoder": text_encoder(words=words)}
    return pipeline(scheduler=TwoSteps(clip_sample=False, steps_offset=1), **parts)


def sdxl(kind: str = "StableDiffusionXLPipeline", *, with_controlnet: bool = False, **parts: Any) -> Any:
    """Build a pipeline of Stable Diffusion XL: two text encoders, and a UNet that is conditioned on sizes."""
    both = 2 * WIDTH
    own = unet("text-time", cross_attention_dim=both, projection_class_embeddings_input_dim=6 * 8 + WIDTH)
    encoders = {"text_encoder": text_encoder(), "text_encoder_2": text_encoder(CLIPTextModelWithProjection)}
    tokenizers = {"tokenizer": tokenizer(), "tokenizer_2": tokenizer()}
    if with_controlnet:
        parts["controlnet"] = random(diffusers.ControlNetModel.from_unet(own, conditioning_embedding_out_channels=(4, 8)), seed=1)
    parts |= {"vae": vae(), "unet": own, "scheduler": ddim(), **encoders, **tokenizers}
    return quiet(getattr(diffusers, kind)(add_watermarker=False, **parts))


def with_controlnet() -> Any:
    """Build a pipeline with a ControlNet."""
    own = random(diffusers.ControlNetModel.from_config(config_of("controlnet", conditioning_embedding_out_channels=[4, 8])), seed=1)
    return pipeline("StableDiffusionControlNetPipeline", controlnet=own)


def with_ip_adapters(count: int) -> Any:
    """Build a pipeline with IP-Adapters, each of 4 image tokens, of unlike weights."""
    pipe = pipeline()
    shapes = {port.name: port.shape for port in traced_once(condition()).ports if port.kind == "ip-adapter"}
    pipe.unet._load_ip_adapter_weights([ip_adapter(shapes)] * count, low_cpu_mem_usage=False)
    random(pipe.unet)
    return pipe


def with_lora() -> Any:
    """Build a pipeline whose UNet has LoRA layers in its attention."""
    from peft import LoraConfig  # here: it takes as long to import as all else

    pipe = pipeline()
    pipe.unet.add_adapter(LoraConfig(r=2, target_modules=["to_q", "to_k", "to_v", "to_out.0"]))
    random(pipe.unet)
    return pipe


def drawn(*shape: int) -> torch.Tensor:
    """Draw numbers from 0 to 1, always the same."""
    return torch.rand(shape, generator=torch.Generator().manual_seed(1))


IMAGE, MASK, EMBEDDING = drawn(1, 3, SIDE, SIDE), drawn(1, 1, SIDE, SIDE).round(), drawn(2, 1, 12)
PIX2PIX = "StableDiffusionInstructPix2PixPipeline"
# How each is built, and what its call is given beside the prompts.
PIPELINES: dict[str, tuple[Callable[[], Any], dict[str, Any]]] = {
    "sd": (pipeline, {}),
    "not square": (pipeline, {"height": SIDE, "width": 48}),
    "img2img": (lambda: pipeline("StableDiffusionImg2ImgPipeline"), {"image": IMAGE, "strength": 1.0}),
    "inpaint": (lambda: pipeline("StableDiffusionInpaintPipeline"), {"image": IMAGE, "mask_image": MASK}),
    "sdxl": (sdxl, {}),
    "controlnet": (with_controlnet, {"image": IMAGE}),
    "ip-adapter": (lambda: with_ip_adapters(1), {"ip_adapter_image_embeds": [EMBEDDING]}),
    "ip-adapters": (lambda: with_ip_adapters(2), {"ip_adapter_image_embeds": [EMBEDDING, EMBEDDING + 1]}),
    "lora": (with_lora, {}),
    "pag": (lambda: pipeline("StableDiffusionPAGPipeline", pag_applied_layers="mid"), {}),
    "pix2pix": (lambda: pipeline(PIX2PIX, unet=unet(in_channels=8)), {"image": IMAGE}),
}
# More of which the order of the rows is known.
OF_XL: dict[str, tuple[Callable[[], Any], dict[str, Any]]] = {
    "sdxl-img2img": (lambda: sdxl("StableDiffusionXLImg2ImgPipeline"), {"image": IMAGE, "strength": 1.0}),
    "sdxl-inpaint": (lambda: sdxl("StableDiffusionXLInpaintPipeline"), {"image": IMAGE, "mask_image": MASK, "strength": 1.0}),
    "sdxl-controlnet": (lambda: sdxl("StableDiffusionXLControlNetPipeline", with_controlnet=True), {"image": IMAGE}),
    "sdxl-pag": (lambda: sdxl("StableDiffusionXLPAGPipeline", pag_applied_layers="mid"), {}),
}


def quiet(pipe: Any) -> Any:
    """Switch a pipeline's progress bar off."""
    pipe.set_progress_bar_config(disable=True)
    return pipe


def sampled(pipe: Any, **given: Any) -> torch.Tensor:
    """Sample latents in two steps, with a fixed seed: (images, channels, height, width)."""
    given = {"prompt": PROMPT, "negative_prompt": NEGATIVE, "num_inference_steps": 2, "output_type": "latent", **given}
    return pipe(generator=torch.Generator().manual_seed(0), **given).images
