"""`UNet2DConditionModel`, Stable Diffusion's UNet and its many relatives, and the two classes that were made from it.

Widths are read from the config as `unet_2d_condition.py` of diffusers reads them: `_set_encoder_hid_proj`,
`_set_class_embedding`, `_set_add_embedding`, `_set_pos_net_if_use_gligen` and `forward`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from unetinspect.unets.blocks import entry, read_widths, text, text_width, width_read
from unetinspect.unets.builder import TIMESTEP, Arg, Builder, Config, Given, is_list
from unetinspect.unets.request import Size

# Text encoders that published UNets pool their `text_embeds` from: CLIP bigG, CLIP L, unCLIP, ChatGLM.
_POOLED_WIDTHS = (1280, 768, 2048, 4096)
_TIME_IDS = 6
_CLASS_EMBEDS = ("timestep", "identity", "projection", "simple_projection")
_PROJECTED = "projection_class_embeddings_input_dim"
# The last axis of each tensor of GLIGEN's objects.
_GLIGEN = (
    ("gated", {"boxes": "corners", "masks": "", "positive_embeddings": "cross_attention_dim"}),
    (
        "gated-text-image",
        {"boxes": "corners", "masks": "", "phrases_masks": "", "image_masks": ""}
        | {"phrases_embeddings": "cross_attention_dim", "image_embeddings": "cross_attention_dim"},
    ),
)
_FIRST_TEXT = 2  # so many transformers of an AudioLDM 2 block read encoder_hidden_states
_GENERATED_TOKENS = 8  # max_new_tokens of AudioLDM 2's language model, which writes encoder_hidden_states
_MEL_CELLS = 16  # 64 mel bins of AudioLDM 2's vocoder after a VAE of factor 4


class UNet2DConditionInputs(Builder):
    """sample, timestep, encoder_hidden_states, and what the config adds."""

    class_name = "UNet2DConditionModel"
    what = "image from text or image: Stable Diffusion and its relatives"

    def args(self, config: Config) -> Iterator[Arg]:
        sample = "batch in_channels height width"
        if config["addition_embed_type"] == "image_hint":  # forward adds 4 channels that add_embedding makes from the hint
            keys = "in_channels, addition_embed_type, sample_size"
            yield Arg("sample", sample, keys, in_channels=config["in_channels"] - 4)
        else:
            yield Arg("sample", sample, "in_channels, sample_size")
        yield TIMESTEP
        yield _text(config)
        yield from class_labels(config, time_factor=2 if config["time_embedding_type"] == "fourier" else 4)
        yield from timestep_cond(config)
        yield from _gligen(config)
        yield from _added_cond(config)

    def assumed_vae_scale(self, config: Config) -> int:
        return 1 if config["in_channels"] == 3 else 8


class DreamLiteInputs(UNet2DConditionInputs):
    """What `UNet2DConditionModel` is given, and added_cond_kwargs.time_ids alone for the addition "time"."""

    class_name = "DreamLiteUNetModel"
    what = "image from text, or from text and image: DreamLite"
    default_size = (128, 256)

    def args(self, config: Config) -> Iterator[Arg]:
        yield from super().args(config)
        if config["addition_embed_type"] == "time":
            keys = f"addition_embed_type, {_PROJECTED}, addition_time_embed_dim"
            yield Arg("added_cond_kwargs.time_ids", "batch ids", keys, ids=time_ids(config))

    def sample_size(self, config: Config) -> Given[Size]:
        """Return twice the width in the config: the pipelines put the image and the one it is made from side by side."""
        (height, width), origin = super().sample_size(config)
        if origin != "config":
            return Given((height, width), origin)
        return Given((height, 2 * width), "config, twice as wide: the pipelines put two images side by side")


class AudioLDM2Inputs(Builder):
    """sample, timestep, encoder_hidden_states, encoder_hidden_states_1; `--tokens` decides the tokens of both texts.

    A row of `cross_attention_dim` has one width for each transformer after a resnet: the first two read
    `encoder_hidden_states`, the others `encoder_hidden_states_1`, and null leaves one with self-attention alone.
    Source: the blocks in `modeling_audioldm2.py` of diffusers.
    """

    class_name = "AudioLDM2UNet2DConditionModel"
    module = "diffusers.pipelines.audioldm2.modeling_audioldm2"
    what = "sound from text, as a spectrogram: AudioLDM 2"
    medium = "spectrogram"
    default_size = (256, _MEL_CELLS)
    vae_scale = 4

    def args(self, config: Config) -> Iterator[Arg]:
        widths = [(row if is_list(row) else [row], channels) for row, channels in read_widths(config)]
        first = width_read((width, channels) for row, channels in widths for width in row[:_FIRST_TEXT])
        second = width_read((width, channels) for row, channels in widths for width in row[_FIRST_TEXT:])
        yield Arg("sample", "batch in_channels height width", "in_channels, sample_size")
        yield TIMESTEP
        yield text(first, tokens=_GENERATED_TOKENS)
        yield from class_labels(config)
        yield from timestep_cond(config)
        if second is not None:
            yield text(second, name="encoder_hidden_states_1")

    def sample_size(self, config: Config) -> Given[Size]:
        """Return what the pipeline runs: a `sample_size` is a length in time, and the mel bins of its vocoder are 64."""
        (time, width), origin = super().sample_size(config)
        if origin != "config" or is_list(config["sample_size"]):
            return Given((time, width), origin)
        return Given((time, _MEL_CELLS), f"config, {_MEL_CELLS} wide: the 64 mel bins that the pipeline runs it on")


def class_labels(config: Config, kinds: tuple[str, ...] = _CLASS_EMBEDS, *, time_factor: int = 4) -> Iterator[Arg]:
    """Yield class_labels, where there are classes; `kinds` are the values of `class_embed_type` that the UNet's class reads.

    The time embedding is `time_factor` times as wide as the first block, unless the config gives its width.
    """
    kind, name = config["class_embed_type"], "class_labels"
    if kind is None and config["num_class_embeds"] is not None:
        yield Arg(name, "batch", "num_class_embeds", dtype="int64")
    elif kind == "timestep":
        yield Arg(name, "batch", "class_embed_type", dtype="int64")
    elif kind == "identity":
        width = config.get("time_embedding_dim") or time_factor * config["block_out_channels"][0]
        yield Arg(name, "batch time_embed_dim", "class_embed_type", time_embed_dim=width)
    elif kind in kinds:
        yield Arg(name, f"batch {_PROJECTED}", f"class_embed_type, {_PROJECTED}")


def timestep_cond(config: Config) -> Iterator[Arg]:
    """Yield timestep_cond, where the time embedding has a layer for it."""
    if config["time_cond_proj_dim"] is not None:
        yield Arg("timestep_cond", "batch time_cond_proj_dim", "time_cond_proj_dim")


def text_time(config: Config) -> Iterator[Arg]:
    """Yield SDXL's pooled text and size ids, where `addition_embed_type` is text_time."""
    if config["addition_embed_type"] == "text_time":
        pooled, ids = text_time_widths(config)
        keys = f"addition_embed_type, {_PROJECTED}, addition_time_embed_dim"
        yield Arg("added_cond_kwargs.text_embeds", "batch pooled_dim", keys, pooled_dim=pooled)
        yield Arg("added_cond_kwargs.time_ids", "batch ids", keys, ids=ids)


def text_time_widths(config: Config) -> tuple[int, int]:
    """Return the width of the pooled text and the number of ids that make up the input of SDXL's projection.

    Pooled width + ids * addition_time_embed_dim is its width: the pooled width is a published one where one fits.
    """
    total, width = config[_PROJECTED], config["addition_time_embed_dim"]
    published = [ids for ids in range(_TIME_IDS, 0, -1) if total - ids * width in _POOLED_WIDTHS]
    ids = published[0] if published else min(_TIME_IDS, time_ids(config))
    return int(total - ids * width), ids


def time_ids(config: Config) -> int:
    """Return how many numbers, each embedded in addition_time_embed_dim channels, the input of the projection has room for."""
    width = config["addition_time_embed_dim"]
    return int(config[_PROJECTED] // width) if width else 0


def _text(config: Config) -> Arg:
    projection, addition = config["encoder_hid_dim_type"], config["addition_embed_type"]
    width = None
    # The addition "text" reads them before any projection does; without a type diffusers uses text_proj. A loaded
    # IP-Adapter (ip_image_proj, in a live UNet alone) keeps the text's projection beside its own.
    if addition == "text" or projection in (None, "text_proj", "text_proj_rms", "text_image_proj", "ip_image_proj"):
        width = config["encoder_hid_dim"]
    if width is None and projection != "image_proj":
        width = text_width(config) if addition != "text" or is_list(config["cross_attention_dim"]) else config["cross_attention_dim"]
    key = "encoder_hid_dim" if config["encoder_hid_dim"] is not None else "cross_attention_dim"
    if width is None:
        return Arg("encoder_hidden_states", None, "encoder_hid_dim_type" if key == "encoder_hid_dim" else key)
    return text(width, key)


def _gligen(config: Config) -> Iterator[Arg]:
    width: Any = entry(config["cross_attention_dim"], 0)
    for kind, tensors in _GLIGEN:
        for name, last in tensors.items() if config["attention_type"] == kind else ():
            lengths = {"objects": 30, "corners": 4, "cross_attention_dim": width}
            yield Arg(f"cross_attention_kwargs.gligen.{name}", f"batch objects {last}", "attention_type", **lengths)


def _added_cond(config: Config) -> Iterator[Arg]:
    """Yield added_cond_kwargs as `get_aug_embed` and `process_encoder_hidden_states` read them."""
    kind, projection, image = config["addition_embed_type"], config["encoder_hid_dim_type"], "added_cond_kwargs.image_embeds"
    yield from text_time(config)
    if kind == "text_image":
        yield Arg("added_cond_kwargs.text_embeds", "batch cross_attention_dim", "addition_embed_type, cross_attention_dim")
    asked_by = "addition_embed_type" if kind in ("text_image", "image", "image_hint") else "encoder_hid_dim_type"
    if kind == "text_image" or projection == "text_image_proj":
        yield Arg(image, "batch cross_attention_dim", f"{asked_by}, cross_attention_dim")
    elif kind in ("image", "image_hint") or projection == "image_proj":
        yield Arg(image, "batch encoder_hid_dim", f"{asked_by}, encoder_hid_dim")
    if kind == "image_hint":  # ImageHintTimeEmbedding halves the hint three times
        yield Arg("added_cond_kwargs.hint", "batch rgb (8 * height) (8 * width)", "addition_embed_type", rgb=3)
