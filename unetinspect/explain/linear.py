"""A linear layer was given another width than it takes: cross-attention, added conditions, class labels, projections."""

from __future__ import annotations

import re
from collections.abc import Sequence

from unetinspect.explain.layers import Layer, Role, catalog_layers
from unetinspect.explain.linear_words import MOST_ROWS_OF_VECTORS, SAYERS, Product
from unetinspect.explain.recogniser import NUMBER, SHAPE, Recogniser, Scene, explained, message, shape_of
from unetinspect.explain.widths import added_width, is_text_rows
from unetinspect.record import ErrorExplanation

_CONTROL_TYPES = {6 * 256, 8 * 256}  # ControlNet Union's kinds of control images, 256 features each: 6, and 8 of its later version
# What a traceback shows of the layer, in diffusers and in the code that UNets were published with.
_SIGNS: tuple[tuple[Role, tuple[str, ...]], ...] = (
    ("added_cond", ("in get_aug_embed", "add_embedding(", "label_emb(")),
    ("class_labels", ("in get_class_embed", "class_embedding(")),
    ("encoder_hid", ("in process_encoder_hidden_states", "encoder_hid_proj(")),
    ("cross_attention", ("attention_processor.py", "attn2(", "to_k(", "attention.py", "context=")),
    ("time", ("time_embedding(", "time_embed(")),
)
_SURELY_CROSS = ("self.attn2(", "add_k_proj(")
_IMAGE_PROJECTION = ("image_proj", "ImageProj", "IPAdapter", "ip_adapter")


def _explain(match: re.Match[str], scene: Scene) -> ErrorExplanation | None:
    first, second = _operands(match)
    if len(second) != 2 or not first or first[-1] == second[0]:
        return None
    rows = 1
    for side in first[:-1]:
        rows *= side
    product = Product(rows, first[-1], *second)
    role, layers = _role(product, scene)
    return explained(match, scene, SAYERS[role](product, layers, scene))


def _operands(match: re.Match[str]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    groups = [group for group in match.groups() if group is not None]
    if len(groups) == 4:
        numbers = [int(group) for group in groups]
        return (numbers[0], numbers[1]), (numbers[2], numbers[3])
    return shape_of(groups[0]), shape_of(groups[1])


def _role(product: Product, scene: Scene) -> tuple[str, Sequence[Layer]]:
    """Choose what the layer is: as the traceback shows it, else the likeliest of those in the catalog that take and give so many."""
    fitting = [layer for layer in catalog_layers() if (layer.takes, layer.gives) == (product.takes, product.gives)]
    if _is_own_hidden_states(product, fitting, scene):
        return "no_text", [layer for layer in fitting if layer.role == "cross_attention"]
    shown = next((role for role, signs in _SIGNS if scene.shows(*signs)), None)
    if shown is None and scene.shows(*_IMAGE_PROJECTION):
        return "image_projection", ()
    of_role = [layer for layer in fitting if layer.role == shown]
    if of_role or shown in ("added_cond", "class_labels", "encoder_hid", "time") or scene.shows(*_SURELY_CROSS):
        return str(shown), of_role
    vectors = product.rows <= MOST_ROWS_OF_VECTORS
    if {product.given, product.takes} == _CONTROL_TYPES and vectors:
        return "control_types", ()
    if not fitting and added_width(product.takes) and vectors:
        return "added_cond", [layer for layer in catalog_layers() if layer.role == "added_cond" and layer.takes == product.takes]
    if not fitting:
        is_image = product.given in (1024, 1280) and vectors and product.gives % product.takes != 0
        return ("image_projection" if is_image and product.gives >= 2048 else "linear"), ()
    likely = max(fitting, key=lambda layer: _likelihood(layer, product)).role
    return likely, [layer for layer in fitting if layer.role == likely]


def _is_own_hidden_states(product: Product, fitting: Sequence[Layer], scene: Scene) -> bool:
    """Tell whether the block's own hidden states came to a layer for text: `encoder_hidden_states` was None."""
    crosses = any(layer.role == "cross_attention" for layer in fitting) or scene.shows("attn.to_k(", "attention_processor.py")
    return crosses and product.given == product.gives and not is_text_rows(product.rows) and product.rows > MOST_ROWS_OF_VECTORS


def _likelihood(layer: Layer, product: Product) -> int:
    """Weigh a layer by what came in: whole texts go to cross-attention, one row for each image to the embeddings."""
    vectors = product.rows <= MOST_ROWS_OF_VECTORS
    weight = {"cross_attention": 3, "encoder_hid": 3, "added_cond": 2, "class_labels": 1, "image_embeds": 1, "time": 0}[layer.role]
    if layer.role in ("added_cond", "class_labels", "image_embeds", "time"):
        return weight + (2 if vectors else -2)
    return weight + (2 if is_text_rows(product.rows) else 0)


_SHAPES = rf"\(?{NUMBER}\s?x\s?{NUMBER} and {NUMBER}\s?x\s?{NUMBER}\)?"
RECOGNISERS = (
    Recogniser(message(rf"mat1 and mat2 shapes cannot be multiplied {_SHAPES}"), _explain),
    Recogniser(message(rf"linear\(\): input and weight\.T shapes cannot be multiplied {_SHAPES}"), _explain),
    Recogniser(message(rf"input and weight\.T shapes cannot be multiplied {_SHAPES}"), _explain),
    Recogniser(message(rf"size mismatch, m1: \[{NUMBER} x {NUMBER}\], m2: \[{NUMBER} x {NUMBER}\]"), _explain),
    Recogniser(message(rf"a and b must have same reduction dim, but got {SHAPE} X {SHAPE}"), _explain),
    Recogniser(message(rf"shapes {SHAPE} and {SHAPE} not aligned"), _explain),
    Recogniser(message(rf"mat1 dim 1 must match mat2 dim 0 \(?{NUMBER}\s?x\s?{NUMBER}, {NUMBER}\s?x\s?{NUMBER}\)?"), _explain),
)
