"""The words for a linear layer that was given another width than it takes, for each thing that the layer can be."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from unetinspect.explain.layers import Layer, Role, catalog_layers
from unetinspect.explain.recogniser import Said, Scene, meant
from unetinspect.explain.widths import AddedWidth, added_width, model_for, pipeline_for, rows_of, whose
from unetinspect.record import ModelMatch, NumberMeaning

MOST_ROWS_OF_VECTORS = 64


class Product(NamedTuple):
    """A product that failed: (rows, given) and (takes, gives)."""

    rows: int
    given: int
    takes: int
    gives: int


def _cross_attention(product: Product, layers: Sequence[Layer], scene: Scene) -> Said:
    refiner = product.takes == 1280 and product.given == 2048
    meaning = (
        f"A cross-attention layer (attn2.to_k or to_v) of a block of {product.gives} channels takes encoder_hidden_states that are "
        f"{product.takes} wide, and was given some that are {product.given} wide. Most likely the embeddings come from the text encoders "
        "of another family of models than the UNet, or than the ControlNet, LoRA or adapter that is plugged into it."
    )
    if refiner:
        meaning += " SDXL's refiner takes the embeddings of the second text encoder alone, not those of both that the base takes."
    return Said(
        "cross_attention_width",
        meaning,
        _text_numbers(product, f"channels of the block: {product.gives} features of every key"),
        [*_takers(layers, product.takes), *_givers(product)],
        list(_cross_changes(product, scene, refiner=refiner)),
    )


def _cross_changes(product: Product, scene: Scene, *, refiner: bool) -> Iterator[str]:
    takes, given = (pipeline_for(width) for width in (product.takes, product.given))
    plugged = (
        f"a ControlNet, LoRA, motion module or IP-Adapter of another family raises the same: `unetinspect ports "
        f"{model_for(product.given)} --with CONTROLNET` holds one against the UNet"
    )
    if refiner:
        yield "give the refiner prompt_embeds of text_encoder_2 only (1280 wide), not those of the base"
    if scene.shows("controlnet", "ControlNet", "cldm"):
        yield f"take a ControlNet that was made for this UNet: the one that is loaded takes embeddings {product.takes} wide"
    if given is not None:
        yield f"keep the embeddings, change the UNet: {product.given} wide is what {given} takes"
    if takes is not None:
        yield f"keep the UNet, change the embeddings: {product.takes} wide is what {takes} computes"
    else:
        yield f"compute embeddings {product.takes} wide: load the text encoder that belongs to this UNet (the config's cross_attention_dim)"
    yield plugged
    yield f"`unetinspect inputs {model_for(product.takes)}` shows what its forward takes"


def _no_text(product: Product, layers: Sequence[Layer], scene: Scene) -> Said:
    return Said(
        "encoder_hidden_states",
        f"A cross-attention layer of a block of {product.gives} channels takes text embeddings {product.takes} wide, and was given the "
        f"block's own hidden states, {product.given} wide: encoder_hidden_states was None, and diffusers then falls back on "
        "self-attention with layers that were not made for it.",
        [
            meant(product.rows, f"{product.rows} rows: batch times height times width of the block's hidden states, no text"),
            meant(product.given, "channels of the block's own hidden states"),
            meant(product.takes, f"width that the layer takes (cross_attention_dim){whose(product.takes)}"),
        ],
        _takers(layers, product.takes),
        [
            (f"pass encoder_hidden_states of (batch, tokens, {product.takes}), for no prompt those of an empty one"),
            "for a UNet that knows no text, build a UNet2DModel instead",
            f"`unetinspect inputs {model_for(product.takes)} --code` writes the call",
        ],
    )


def _added_cond(product: Product, layers: Sequence[Layer], scene: Scene) -> Said:
    takes, given = added_width(product.takes), added_width(product.given)
    meaning = (
        f"add_embedding takes text_embeds and time_ids side by side, {product.takes} features for each image, and was given "
        f"{product.given}. {_difference(takes, given)}"
    )
    return Said(
        "added_cond_width",
        meaning,
        [
            meant(product.rows, f"the batch: {product.rows} rows, one for each image, two with CFG"),
            _added_number(product.given, given, "given"),
            _added_number(product.takes, takes, "taken: projection_class_embeddings_input_dim"),
            meant(product.gives, "width of the time embedding, to which it is added: 4 x block_out_channels[0]"),
        ],
        [
            *_takers(layers, product.takes, "add_embedding takes {width}"),
            *_others("added_cond", product.given, "add_embedding takes {width}"),
        ],
        _added_changes(takes, given, product),
    )


def _difference(takes: AddedWidth | None, given: AddedWidth | None) -> str:
    if takes is None or given is None:
        return "Either text_embeds have another width, or time_ids are more or fewer than the UNet was made for."
    if takes.text_embeds == given.text_embeds:
        return (
            f"The text_embeds fit; the time_ids are {given.time_ids} and must be {takes.time_ids}: most likely SDXL base and refiner "
            "are mixed."
        )
    return f"The text_embeds are {given.text_embeds} wide and must be {takes.text_embeds}."


def _added_number(width: int, parts: AddedWidth | None, what: str) -> NumberMeaning:
    return meant(width, f"{what}{f', {parts.written}' if parts else ''}")


def _added_changes(takes: AddedWidth | None, given: AddedWidth | None, product: Product) -> list[str]:
    changes = []
    if takes and given and takes.time_ids != given.time_ids:
        changes.append(
            f"give {takes.time_ids} time_ids: base takes (original size, crop, target size), 6 numbers; the refiner (original size, crop, "
            "aesthetic score), 5. In a pipeline: requires_aesthetics_score is False for base and True for the refiner"
        )
    if takes and given and takes.text_embeds != given.text_embeds:
        changes.append(
            f"give text_embeds (pooled_prompt_embeds) {takes.text_embeds} wide: those of the text encoder that belongs to the UNet"
        )
    return [
        *changes,
        "check that UNet and pipeline are one family: an SDXL refiner, a Kolors or an SDXL base UNet each takes its own width",
        f"`unetinspect inputs {model_for(product.takes)}` shows text_embeds and time_ids with their shapes",
    ]


def _class_labels(product: Product, layers: Sequence[Layer], scene: Scene) -> Said:
    return Said(
        "class_labels_width",
        f"class_embedding takes class_labels {product.takes} wide (the config's projection_class_embeddings_input_dim), and was given "
        f"{product.given}. For such a UNet class_labels are no numbers of classes but embeddings: of an image with its noise level, or "
        "of sound.",
        [
            meant(product.given, "width of the class_labels given"),
            meant(product.takes, "width taken: projection_class_embeddings_input_dim"),
            meant(product.gives, "width of the time embedding, to which they are added"),
        ],
        _takers(layers, product.takes, "class_labels {width} wide"),
        [
            f"pass class_labels of (batch, {product.takes}), computed as the UNet's own pipeline computes them",
            "`unetinspect inputs MODEL` shows the shape for your UNet",
        ],
    )


def _encoder_hid(product: Product, layers: Sequence[Layer], scene: Scene) -> Said:
    return Said(
        "encoder_hid_width",
        f"encoder_hid_proj, which brings the text embeddings to the width of cross-attention, takes {product.takes} features "
        f"(the config's encoder_hid_dim), and was given {product.given}. Most likely the embeddings are those of another text encoder.",
        _text_numbers(product, "width of cross-attention behind it: cross_attention_dim"),
        [*_takers(layers, product.takes), *_givers(product)],
        [
            f"compute encoder_hidden_states {product.takes} wide, with the text encoder that belongs to the UNet{whose(product.takes)}",
            "if the embeddings are already projected, they must not go through encoder_hid_proj again",
            f"`unetinspect inputs {model_for(product.takes)}` shows what its forward takes",
        ],
    )


def _image_projection(product: Product, layers: Sequence[Layer], scene: Scene) -> Said:
    return Said(
        "image_projection_width",
        f"A projection of image embeddings (IP-Adapter's image_proj, most likely) takes {product.takes} features, and was given "
        f"{product.given}: the image encoder is another one than the adapter was trained with. CLIP ViT-H gives 1024, ViT-bigG 1280, "
        "ViT-L 768; adapters named Plus take the hidden states before that projection: 1280 of ViT-H, 1664 of ViT-bigG.",
        [meant(product.given, "width of the image embeddings given"), meant(product.takes, "width that the projection takes")],
        (),
        [
            (
                "load the image encoder that belongs to the adapter: models/image_encoder (ViT-H), or sdxl_models/image_encoder (ViT-bigG) "
                "for the SDXL adapters without vit-h in their name"
            ),
            "check that the adapter is of the UNet's own family: `unetinspect ports MODEL` lists the keys and widths that it takes",
        ],
    )


def _time(product: Product, layers: Sequence[Layer], scene: Scene) -> Said:
    return Said(
        "time_embedding_width",
        f"A time embedding takes {product.takes} features, and was given {product.given}. Either timestep_cond has another width than "
        "time_cond_proj_dim, or the timestep is no number for each image, or a part of one UNet runs with the embedding of another.",
        [meant(product.given, "width given"), meant(product.takes, "width taken: block_out_channels[0], or time_cond_proj_dim")],
        _takers(layers, product.takes, "its time embedding takes {width}"),
        [
            "give timestep as one number, or as (batch,), and timestep_cond as (batch, time_cond_proj_dim)",
            "`unetinspect inputs MODEL` shows both",
        ],
    )


def _linear(product: Product, layers: Sequence[Layer], scene: Scene) -> Said:
    text = product.given in (768, 1024, 1280, 2048, 4096) and product.rows > MOST_ROWS_OF_VECTORS
    likely = (
        "Most likely it is the to_k of a cross-attention layer, and the embeddings are another text encoder's."
        if text
        else (
            "It may be a layer of another kind of model (Flux, SD3, Wan and other transformers have no UNet), a layer that a LoRA or an "
            "extension has replaced, or one of a UNet with a config of its own."
        )
    )
    return Said(
        "cross_attention_width" if text else "linear_width",
        f"A linear layer takes {product.takes} features and gives {product.gives}; it was given {product.given}. No UNet of the catalog "
        "takes "
        f"something from outside with such a layer. {likely}",
        _text_numbers(product, "features that the layer gives"),
        _givers(product) if text else (),
        [
            "paste the whole traceback: the lines above the error tell which layer it is",
            "`unetinspect inputs MODEL` shows what your UNet's forward takes; MODEL may be your config.json",
            "take away LoRAs, ControlNets and extensions one by one",
        ],
    )


def _text_numbers(product: Product, gives: str) -> list[NumberMeaning]:
    return [
        meant(product.rows, rows_of(product.rows)),
        meant(product.given, f"width of what was given{whose(product.given)}"),
        meant(product.takes, f"width that the layer takes{whose(product.takes)}"),
        meant(product.gives, gives),
    ]


def _takers(layers: Sequence[Layer], width: int, words: str = "takes encoder_hidden_states {width} wide") -> list[ModelMatch]:
    """Return the models whose layer it can be, each with where."""
    found: dict[str, list[Layer]] = {}
    for layer in layers:
        found.setdefault(layer.model, []).append(layer)
    return [
        ModelMatch(name=name, role=words.format(width=width), where=(own[0].key, *dict.fromkeys(layer.path for layer in own)))
        for name, own in found.items()
    ]


def _givers(product: Product) -> list[ModelMatch]:
    """Return the models that such embeddings are made for."""
    return _others("cross_attention", product.given, "takes encoder_hidden_states {width} wide, as those given") + _others(
        "encoder_hid", product.given, "takes encoder_hidden_states {width} wide, as those given"
    )


def _others(role: Role, width: int, words: str) -> list[ModelMatch]:
    found = {layer.model: layer.key for layer in catalog_layers() if layer.role == role and layer.takes == width}
    return [ModelMatch(name=name, role=words.format(width=width), where=(key,)) for name, key in found.items()]


def _control_types(product: Product, layers: Sequence[Layer], scene: Scene) -> Said:
    return Said(
        "control_types",
        f"Most likely a ControlNet Union: its control_add_embedding takes {product.takes // 256} kinds of control images, 256 features "
        "each, "
        f"and was given {product.given // 256}. Its first version has 6 kinds, the later one (ProMax) 8.",
        [
            meant(product.given, f"{product.given // 256} x 256 given"),
            meant(product.takes, f"{product.takes // 256} x 256 taken: num_control_type"),
        ],
        (),
        [
            "give control_type as many entries as the config's num_control_type, or load the other version's config with its weights",
            "`unetinspect inputs CONTROLNET` shows control_type with its shape",
        ],
    )


SAYERS: dict[str, Callable[[Product, Sequence[Layer], Scene], Said]] = {
    "cross_attention": _cross_attention,
    "no_text": _no_text,
    "added_cond": _added_cond,
    "class_labels": _class_labels,
    "encoder_hid": _encoder_hid,
    "image_embeds": _image_projection,
    "image_projection": _image_projection,
    "time": _time,
    "control_types": _control_types,
    "linear": _linear,
}
