"""An argument of forward is missing: added_cond_kwargs, class_labels, encoder_hidden_states."""

from __future__ import annotations

import re

from unetinspect.catalog import Entry, load_catalog
from unetinspect.explain.recogniser import Recogniser, Said, Scene, explained, message, word_before
from unetinspect.record import ErrorExplanation, ModelMatch

_CODE = "`unetinspect inputs MODEL --code` writes the call with every argument that your UNet needs"
_ADDED = {
    "text_embeds": "the pooled text embedding, (batch, 1280) for SDXL",
    "time_ids": "original size, crop and target size as 6 numbers, (batch, 6) for SDXL (5 for its refiner)",
    "image_embeds": "the image's embedding, (batch, encoder_hid_dim)",
    "hint": "the control image, (batch, 3, height, width) in pixels",
}
_WANTS_ADDED = ("text_time", "text_image", "image", "image_hint", "time")
_AUG_EMBED = ("get_aug_embed", "process_encoder_hidden_states", "added_cond_kwargs", "text_embeds", "unet_2d_condition")


def _explain_none(match: re.Match[str], scene: Scene) -> ErrorExplanation | None:
    """Explain a None in which a key is looked for; without a traceback this is only the likeliest cause."""
    sure = scene.shows(*_AUG_EMBED)
    which = "The traceback shows that" if sure else "For a UNet's forward, most likely,"
    return explained(
        match,
        scene,
        Said(
            "added_cond_kwargs",
            f"{which} added_cond_kwargs was None: the UNet's config has an addition_embed_type (SDXL: text_time) or an "
            "encoder_hid_dim_type, "
            "and looks for text_embeds, time_ids or image_embeds in a dict that was not passed. Code for Stable Diffusion 1.x or 2.x that "
            "runs an SDXL UNet does this.",
            (),
            _with_added_conditions(),
            [
                'pass added_cond_kwargs={"text_embeds": pooled_prompt_embeds, "time_ids": add_time_ids} to unet(...)',
                "take the pipeline or the training script for SDXL: StableDiffusionXLPipeline, train_dreambooth_lora_sdxl.py",
                _CODE,
            ],
        ),
    )


def _explain_key(match: re.Match[str], scene: Scene) -> ErrorExplanation | None:
    key, kind, missing = match["key"], match["kind"], re.findall(r"\w{1,40}", match["missing"])
    wanted = [name for name in missing if name in _ADDED] or missing[:1]
    models = [
        ModelMatch(name=entry.name, role=f"has {key} {kind!r}", where=(key,))
        for entry in load_catalog().values()
        if entry.config.get(key) == kind
    ]
    return explained(
        match,
        scene,
        Said(
            "added_cond_kwargs",
            f"The UNet's config has {key} {kind!r}, and its forward needs {' and '.join(wanted)} in added_cond_kwargs; the dict that was "
            "passed "
            "lacks it.",
            (),
            models,
            [
                *(f"pass added_cond_kwargs with {name!r}: {_ADDED.get(name, 'see below for its shape')}" for name in wanted),
                *(
                    ["for IP-Adapter: pass ip_adapter_image (or ip_adapter_image_embeds) to the pipeline, or unload_ip_adapter()"]
                    if "image" in kind
                    else []
                ),
                _CODE,
            ],
        ),
    )


def _explain_class(match: re.Match[str], scene: Scene) -> ErrorExplanation | None:
    return explained(
        match,
        scene,
        Said(
            "class_labels",
            "The UNet is conditioned on classes (num_class_embeds or class_embed_type in its config), and forward was called without "
            "class_labels. For an upscaler or DeepFloyd IF's second stage they are the noise level, for AudioLDM and unCLIP an embedding.",
            (),
            [
                ModelMatch(name=entry.name, role=_class_role(entry), where=(_class_key(entry),))
                for entry in load_catalog().values()
                if _class_key(entry)
            ],
            [
                (
                    "pass class_labels: whole numbers of shape (batch,) with num_class_embeds, the noise level of the upscaler; embeddings "
                    "of shape "
                    "(batch, projection_class_embeddings_input_dim) with class_embed_type 'projection'"
                ),
                "take the pipeline or script that was made for this model: a text-to-image one does not know class_labels",
                _CODE,
            ],
        ),
    )


def _explain_no_class(match: re.Match[str], scene: Scene) -> ErrorExplanation | None:
    return explained(
        match,
        scene,
        Said(
            "class_labels",
            "class_labels were passed to a UNet without a class embedding: neither num_class_embeds nor class_embed_type is set in its "
            "config.",
            (),
            (),
            [
                "build the UNet with num_class_embeds=N (and train it so), or leave class_labels out",
                "`unetinspect config MODEL` shows both keys",
            ],
        ),
    )


def _explain_missing(match: re.Match[str], scene: Scene) -> ErrorExplanation | None:
    wanted = re.findall(r"[A-Za-z_]{2,40}", match["names"].replace(" and ", " "))
    if not wanted:
        return None
    text = "encoder_hidden_states" in wanted
    class_name = _owner(match)
    kind = "encoder_hidden_states" if text else "missing_argument"
    meaning = f"forward of {class_name} was called without {', '.join(wanted)}, which it needs in every call. " + (
        "encoder_hidden_states are the text embeddings, (batch, tokens, cross_attention_dim)." if text else ""
    )
    return explained(
        match,
        scene,
        Said(
            kind,
            meaning.strip(),
            (),
            (),
            [
                f"pass {' and '.join(wanted)}" + (": for no prompt, the embeddings of an empty one" if text else ""),
                *(["for a UNet that knows no text, build a UNet2DModel: its forward takes sample and timestep alone"] if text else []),
                _CODE,
            ],
        ),
    )


def _explain_unexpected(match: re.Match[str], scene: Scene) -> ErrorExplanation | None:
    name, class_name = match["name"], _owner(match)
    if name not in (
        "encoder_hidden_states",
        "class_labels",
        "added_cond_kwargs",
        "timestep_cond",
        "added_time_ids",
        "cross_attention_kwargs",
        "scale",
    ):
        return None
    return explained(
        match,
        scene,
        Said(
            "unexpected_argument",
            f"forward of {class_name} does not take {name}: the UNet, or one of its blocks, is of another class than the code was "
            "written for. "
            "Blocks without CrossAttn in their name take no encoder_hidden_states.",
            (),
            (),
            [
                (
                    "load the UNet as the class its config names (_class_name), or change the block types: 'CrossAttnDownBlock2D' reads "
                    "text, "
                    "'AttnDownBlock2D' and 'DownBlock2D' do not"
                ),
                "`unetinspect inputs MODEL` lists what forward takes",
            ],
        ),
    )


def _explain_attribute(match: re.Match[str], scene: Scene) -> ErrorExplanation | None:
    """Explain a None where a tensor belongs; only where the traceback shows that it happened inside a UNet."""
    if not scene.shows("attention_processor", "attention.py", "unet_", "openaimodel", "transformer_2d"):
        return None
    attention = scene.shows("attention_processor", "attention.py")
    return explained(
        match,
        scene,
        Said(
            "encoder_hidden_states" if attention else "missing_argument",
            "A tensor that forward works with was None. "
            + (
                "In attention that is most likely encoder_hidden_states, the text embeddings."
                if attention
                else "Most likely an argument was not passed."
            ),
            (),
            (),
            ["check that prompt_embeds, and image embeddings where an IP-Adapter is loaded, are passed and are no None", _CODE],
        ),
    )


def _owner(match: re.Match[str]) -> str:
    """Return the class whose forward it is: newer Pythons write it in front."""
    word = word_before(match)
    return word[:-1] if word.endswith(".") else "this class"


def _with_added_conditions() -> list[ModelMatch]:
    found = []
    for entry in load_catalog().values():
        kind = entry.config.get("addition_embed_type")
        if kind in _WANTS_ADDED:
            found.append(ModelMatch(name=entry.name, role=f"has addition_embed_type {kind!r}", where=("addition_embed_type",)))
    return found


def _class_key(entry: Entry) -> str:
    if entry.config.get("class_embed_type") is not None:
        return "class_embed_type"
    return "num_class_embeds" if entry.config.get("num_class_embeds") else ""


def _class_role(entry: Entry) -> str:
    key = _class_key(entry)
    return f"has {key} {entry.config[key]!r}"


RECOGNISERS = (
    Recogniser(
        message(
            r"has the config param .?(?P<key>addition_embed_type|encoder_hid_dim_type).? set to .?(?P<kind>\w{1,40}).? which requires "
            r"the keyword "
            r"arguments? (?P<missing>[\w`'\s]{1,100}?) to be passed in .?added_(?:cond|conditions)"
        ),
        _explain_key,
    ),
    Recogniser(
        message(r"(?:argument of type 'NoneType' is not (?:iterable|a container or iterable)|\"NoneType\" is not iterable)"),
        _explain_none,
    ),
    Recogniser(message(r"class_labels should be provided when (?:num_class_embeds > 0|doing class conditioning)"), _explain_class),
    Recogniser(message(r"class_embedding needs to be initialized in order to use class conditioning"), _explain_no_class),
    Recogniser(
        message(r"forward\(\) missing [0-9]{1,2} required positional arguments?: (?P<names>['\w,\s]{1,200})"),
        _explain_missing,
    ),
    Recogniser(message(r"forward\(\) got an unexpected keyword argument '(?P<name>\w{1,60})'"), _explain_unexpected),
    Recogniser(message(r"'NoneType' object has no attribute '(?:shape|ndim|to|size|get|dtype)'"), _explain_attribute),
)
