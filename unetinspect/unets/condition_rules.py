"""What keys of a `UNet2DConditionModel` config ask of each other, and what diffusers cannot run whatever they say.

Classes that copy it have more such keys, or fewer: a key that is not there asks for nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from unetinspect.unets.base import Config, is_count, is_list
from unetinspect.unets.block_list import Block, entry, list_blocks
from unetinspect.unets.block_rules import check_block_heads, check_depth, check_text_width, one_for_each_value
from unetinspect.unets.config_rules import check_activation, check_choice, check_dropout, check_from_zero, check_time_norm

# These make one linear layer of the width, and cannot take a width per block.
_TAKES_ONE_WIDTH = {
    "addition_embed_type": ("text_image",),
    "encoder_hid_dim_type": ("text_proj", "text_proj_rms", "text_image_proj", "image_proj"),
    "attention_type": ("gated", "gated-text-image"),
}


_CLASS_EMBEDS = (None, "timestep", "identity", "projection", "simple_projection")


def check_time_values(config: Config) -> Iterator[str]:
    """Find values of the time embedding, and of the resnets that it is added in, that nothing can be made of."""
    yield from check_from_zero(config, ["time_embedding_dim"])
    yield from check_activation(config, "time_embedding_act_fn", optional=True)
    yield from check_activation(config, "timestep_post_act", optional=True)
    yield from check_time_norm(config)
    if "dropout" in config:
        yield from check_dropout(config, "dropout")


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
    elif config["class_embeddings_concat"]:
        found += _not_concatenated(config)
    single = [key for key, values in _TAKES_ONE_WIDTH.items() if config.get(key) in values]
    if config.get("encoder_hid_dim") is not None and config.get("encoder_hid_dim_type") is None:
        single.append("encoder_hid_dim")
    if is_list(config["cross_attention_dim"]) and single:
        found.append(f"cross_attention_dim is a list, and must be one number for {single[0]} {config[single[0]]!r}")
    return found


def _not_concatenated(config: Config) -> Iterator[str]:
    """Find what leaves the time embedding at another width than twice its own, which the blocks then take."""
    kind, addition = config["class_embed_type"], config.get("addition_embed_type")
    if kind not in _CLASS_EMBEDS:
        yield from check_choice({"class_embed_type": kind}, "class_embed_type", _CLASS_EMBEDS)
    if addition is not None:
        yield f"class_embeddings_concat is true, and addition_embed_type {addition!r} adds to a time embedding that is not yet so wide"


def check_text_heads(config: Config) -> Iterator[str]:
    """Find heads of the text's pooling that do not share out its width. Source: `TextTimeEmbedding`."""
    if config["addition_embed_type"] != "text":
        return
    key = "cross_attention_dim" if config["encoder_hid_dim"] is None else "encoder_hid_dim"
    heads, width = config["addition_embed_type_num_heads"], config[key]
    if is_list(width):
        yield f"{key} is a list, and must be one number for addition_embed_type 'text'"
    elif is_count(width) and (not is_count(heads) or width % heads):
        yield f"addition_embed_type_num_heads is {heads}, and must divide the width of the text, {width}"


def check_attention(config: Config) -> list[str]:
    """Find what the blocks with attention cannot be built of."""
    with_transformers = transformer_blocks(config)
    problems = [problem for block in with_transformers for problem in check_transformers(config, block)]
    for block in _blocks_of_kind(config, lambda kind: "Attn" in kind and not _has_transformers(kind)):
        # Where a list says null, the way down and the way up take one head.
        if block.path == "mid_block" or entry(config["attention_head_dim"], block.place) is not None:
            problems += check_block_heads(config, "attention_head_dim", block)
    return one_for_each_value(problems)


def check_transformers(config: Config, block: Block) -> Iterator[str]:
    """Find a number of transformer layers, or of heads, that a block with transformers cannot be built of."""
    if block.path != "mid_block":
        yield from check_text_width(config, block)
    reverse, key = config["reverse_transformer_layers_per_block"], "transformer_layers_per_block"
    if block.goes_up and is_list(reverse):
        yield from check_depth(config, f"reverse_{key}", block, -1 - block.place, longer=True)
    else:
        yield from check_depth(config, key, block, block.place, longer=True)
    yield from check_block_heads(config, "attention_head_dim", block)


def transformer_blocks(config: Config) -> list[Block]:
    """List the blocks with transformers; others with attention count the channels of a head."""
    return _blocks_of_kind(config, _has_transformers)


def _blocks_of_kind(config: Config, is_wanted: Callable[[str], bool]) -> list[Block]:
    kinds = {"mid_block": str(config["mid_block_type"])}
    for way in ("down", "up"):
        names = config[f"{way}_block_types"]
        kinds |= {f"{way}_blocks.{place}": str(kind) for place, kind in enumerate(names)} if is_list(names) else {}
    blocks = list_blocks({**config, "mid_block_layers": config.get("num_mid_layers", 1)})
    return [block for block in blocks if is_wanted(kinds[block.path])]


def _has_transformers(kind: str) -> bool:
    return "CrossAttn" in kind and "SimpleCrossAttn" not in kind and not kind.removeprefix("UNetRes").startswith("K")


def _depths(config: Config) -> list[str]:
    depths = config["transformer_layers_per_block"]
    nested = is_list(depths) and any(is_list(depth) for depth in depths)
    found = []
    reverse = config["reverse_transformer_layers_per_block"]
    if reverse is not None and not is_list(reverse):
        found.append(f"reverse_transformer_layers_per_block is {reverse!r}, and must be a list or null")
    if nested and reverse is None:
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
