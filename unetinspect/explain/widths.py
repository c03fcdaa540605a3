"""Whose embeddings are how wide: what a number in a message most likely is."""

from __future__ import annotations

from typing import NamedTuple

TEXT_WIDTHS = {
    512: "CLAP's text embedding (AudioLDM, MusicLDM)",
    768: "CLIP ViT-L's text embeddings (Stable Diffusion 1.x), or image embeddings of its size",
    1024: "OpenCLIP ViT-H's text embeddings (Stable Diffusion 2.x), or CLIP image embeddings (IP-Adapter, Stable Video Diffusion)",
    1280: "OpenCLIP ViT-bigG's embeddings, SDXL's second text encoder (the SDXL refiner takes these alone)",
    2048: "SDXL's two text encoders side by side, 768 + 1280",
    4096: "T5-XXL's or ChatGLM3's text embeddings (DeepFloyd IF, Kandinsky 3, Kolors; also Flux and SD3, which have no UNet)",
}
# Of the pooled text embeddings: ViT-bigG's, ChatGLM3's, ViT-L's. The likeliest first, as some sums can be read in two ways.
_POOLED_WIDTHS = (1280, 4096, 768, 2048, 1024)
_PIPELINES = {
    768: "StableDiffusionPipeline with a Stable Diffusion 1.x UNet",
    1024: "StableDiffusionPipeline with a Stable Diffusion 2.x UNet",
    1280: "StableDiffusionXLImg2ImgPipeline with the SDXL refiner",
    2048: "StableDiffusionXLPipeline with an SDXL UNet",
}
_MODELS = {
    768: "sd15",
    1024: "sd21",
    1280: "sdxl-refiner",
    2048: "sdxl",
    2816: "sdxl",
    2560: "sdxl-refiner",
    5632: "kolors",
    4096: "kolors",
}
_TIME_ID_WIDTH = 256
_TEXT_TOKENS = 77
_MOST_TOKENS_AT_ONCE = 12
_OTHER_TOKENS = {257: "CLIP ViT-L's or ViT-H's image tokens", 256: "ChatGLM3's tokens (Kolors)", 128: "T5's tokens"}


class AddedWidth(NamedTuple):
    """The width of what `add_embedding` takes, taken apart: text_embeds beside so many time_ids of 256 features each."""

    text_embeds: int
    time_ids: int

    @property
    def written(self) -> str:
        """The sum, as it is computed."""
        return f"{self.text_embeds} of text_embeds + {self.time_ids} time_ids x {_TIME_ID_WIDTH}"


def added_width(width: int) -> AddedWidth | None:
    """Take such a width apart, or return None where no text_embeds that are known make it up.

    >>> added_width(2816), added_width(2560), added_width(320)
    (AddedWidth(text_embeds=1280, time_ids=6), AddedWidth(text_embeds=1280, time_ids=5), None)
    """
    sums = ((text, count) for text in _POOLED_WIDTHS for count in (6, 5))
    return next((AddedWidth(text, count) for text, count in sums if text + count * _TIME_ID_WIDTH == width), None)


def rows_of(rows: int) -> str:
    """Say what the rows of a matrix of text embeddings are.

    >>> rows_of(154), rows_of(77), rows_of(7)
    ('2 x 77 tokens of text', '77 tokens of text', '7 rows: batch times tokens')
    """
    count, rest = divmod(rows, _TEXT_TOKENS)
    if rest == 0 and 0 < count <= _MOST_TOKENS_AT_ONCE:
        return f"{count} x {_TEXT_TOKENS} tokens of text" if count > 1 else f"{_TEXT_TOKENS} tokens of text"
    for tokens, whose in _OTHER_TOKENS.items():
        if rows in (tokens, 2 * tokens):
            return f"{'2 x ' if rows == 2 * tokens else ''}{tokens} tokens, perhaps {whose}"
    return f"{rows} rows: batch times tokens"


def is_text_rows(rows: int) -> bool:
    """Tell whether so many rows are most likely tokens of text: a few times 77."""
    return rows > 0 and rows % _TEXT_TOKENS == 0


def whose(width: int) -> str:
    """Say whose embeddings are so wide: ": CLIP ViT-L's ...", or nothing."""
    return f": {TEXT_WIDTHS[width]}" if width in TEXT_WIDTHS else ""


def pipeline_for(width: int) -> str | None:
    """Name a pipeline whose text embeddings are so wide."""
    return _PIPELINES.get(width)


def model_for(width: int) -> str:
    """Name the catalog model to try a command on, "MODEL" where no one is meant."""
    return _MODELS.get(width, "MODEL")
