"""What keys of a `UNet2DConditionModel` config ask of each other, and what diffusers cannot run whatever they say.

Classes that copy it have more such keys, or fewer: a key that is not there asks for nothing.
"""

from __future__ import annotations

from unetinspect.inputs.base import Config, is_count, is_list

# These make one linear layer of the width, and cannot take a width per block.
_TAKES_ONE_WIDTH = {
    "addition_embed_type": ("text_image",),
    "encoder_hid_dim_type": ("text_proj", "text_proj_rms", "text_image_proj", "image_proj"),
    "attention_type": ("gated", "gated-text-image"),
}


def find_contradictions(config: Config) -> list[str]:
    """List every mistake that lies in the combination of keys, one sentence each."""
    return [*missing_partners(config), *find_unusable(config), *_depths(config)]


def missing_partners(config: Config) -> list[str]:
    """Find keys that need another key which is not set."""
    needs = {
        ("encoder_hid_dim_type", "text_proj", "text_proj_rms", "text_image_proj", "image_proj"): ["encoder_hid_dim"],
        ("class_embed_type", "projection", "simple_projection"): ["projection_class_embeddings_input_dim"],
        ("addition_embed_type", "text_time", "time"): ["addition_time_embed_dim", "projection_class_embeddings_input_dim"],
        ("addition_embed_type", "image", "image_hint"): ["encoder_hid_dim"],
    }
    found = []
    for (key, *values), partners in needs.items():
        if config.get(key) in values:
            found += [f"{key} is {config[key]!r}, which needs {partner}" for partner in partners if not is_count(config[partner])]
    width, total = config.get("addition_time_embed_dim"), config["projection_class_embeddings_input_dim"]
    if config.get("addition_embed_type") == "text_time" and is_count(width) and is_count(total) and total < width:
        found.append(f"projection_class_embeddings_input_dim is {total}, and must be at least addition_time_embed_dim, {width}")
    return found


def find_unusable(config: Config) -> list[str]:
    """Find what diffusers cannot run, whatever else the config says."""
    found = []
    if config["num_attention_heads"] is not None:
        found.append("num_attention_heads is set, which diffusers refuses: attention_head_dim holds the number of heads here")
    kinds = [str(kind) for key in ("down_block_types", "up_block_types") if is_list(config[key]) for kind in config[key]]
    if config.get("dual_cross_attention") and any(map(_has_transformers, (*kinds, str(config["mid_block_type"])))):
        found.append("dual_cross_attention is true, and diffusers' DualTransformer2DModel raises in every forward")
    if config.get("addition_embed_type") == "image_hint" and is_count(config["in_channels"]) and config["in_channels"] <= 4:
        found.append(f"in_channels is {config['in_channels']}, and must be above 4: addition_embed_type 'image_hint' brings 4 of them")
    if config["class_embeddings_concat"] and config["class_embed_type"] is None and config["num_class_embeds"] is None:
        found.append("class_embeddings_concat is true, which needs class_embed_type or num_class_embeds")
    single = [key for key, values in _TAKES_ONE_WIDTH.items() if config.get(key) in values]
    if is_list(config["cross_attention_dim"]) and single:
        found.append(f"cross_attention_dim is a list, and must be one number for {single[0]} {config[single[0]]!r}")
    return found


def _has_transformers(kind: str) -> bool:
    return "CrossAttn" in kind and "SimpleCrossAttn" not in kind and not kind.startswith("K")


def _depths(config: Config) -> list[str]:
    depths = config["transformer_layers_per_block"]
    nested = is_list(depths) and any(is_list(depth) for depth in depths)
    found = []
    if nested and config["reverse_transformer_layers_per_block"] is None:
        found.append("transformer_layers_per_block is nested, which needs reverse_transformer_layers_per_block")
    return found + uneven_depths(config)


def uneven_depths(config: Config) -> list[str]:
    """Find lists of transformer depths, or of `only_cross_attention`, that do not fit the blocks."""
    only, kinds = config.get("only_cross_attention"), config["down_block_types"]
    blocks = len(kinds) if is_list(kinds) else 0
    lists = {key: len(value) for key, value in config.items() if is_list(value)}
    short = [key for key in ("transformer_layers_per_block", "reverse_transformer_layers_per_block") if lists.get(key, blocks) < blocks]
    uneven = ["only_cross_attention"] if is_list(only) and len(only) != blocks else []
    must = f"and must have one for each of the {blocks} down_block_types"
    return [f"{key} has {lists[key]} entries, {must}" for key in (*short, *uneven)]
