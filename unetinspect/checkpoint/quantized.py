"""Quantized weights: what a quantizer writes beside a weight, and the shape that a packed weight has in the model.

Sources: `QuantState.as_dict` and `Linear8bitLt` of bitsandbytes, `QTensor` of optimum-quanto, and `ops.py` of ComfyUI.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from itertools import islice
from typing import NamedTuple

from unetinspect.checkpoint.affixes import LONGEST_ENDING
from unetinspect.checkpoint.safetensors_header import BLOCK_BITS, TensorSpec
from unetinspect.record import Shape

# How the name of a tensor beside a weight ends, how the dtype of that weight starts, and the form that both show: its name, and the
# bits of a value. The first row that holds counts.
_FORMS = (
    ("weight.quant_state.bitsandbytes__nf4", "", "NF4 (bitsandbytes)", 4),
    ("weight.quant_state.bitsandbytes__fp4", "", "FP4 (bitsandbytes)", 4),
    ("weight.absmax", "", "4-bit (bitsandbytes)", 4),
    ("weight.SCB", "I8", "int8 (bitsandbytes)", 8),
    ("SCB", "I8", "int8 (bitsandbytes)", 8),
    ("weight_scale_2", "U8", "NVFP4", 4),
    ("weight_scale", "U8", "scaled 4-bit", 4),
    ("weight_scale", "I8", "scaled int8", 8),
    ("weight_scale", "F8", "scaled fp8", 8),
    ("scale_weight", "I8", "scaled int8", 8),
    ("scale_weight", "F8", "scaled fp8", 8),
    ("weight._scale", "U8", "4-bit (quanto)", 4),
    ("weight._scale", "I8", "int8 (quanto)", 8),
    ("weight._scale", "F8", "fp8 (quanto)", 8),
)
# What goes along with these.
_ALONG = (
    *("weight.quant_map", "weight.nested_absmax", "weight.nested_quant_map", "weight_format", "weight._shift"),
    *("scale_input", "input_scale", "output_scale", "comfy_quant"),
)
_ENDING = re.compile(r"\.(" + "|".join(map(re.escape, dict.fromkeys((*(row[0] for row in _FORMS), *_ALONG)))) + r")\Z")
_WHOLE_FILE = re.compile(r"(?:.*\.)?scaled_fp8", re.DOTALL)
QUANTO_VALUES = "._data"  # behind the name of a weight

# Layers without a bias, by the start of their names, and the layer beside them, with a bias, that reads their output.
_READ_BY = {"to_q": "to_out.0", "to_k": "to_out.0", "to_v": "to_out.0", "cond_": "linear_1"}


class Unpacked(NamedTuple):
    """The tensors of a model.

    Attributes:
        tensors: Each with the shape that it has in the model, by its name.
        flat: Those of which only the number of values is known: their shape is (values,).
        form: How most of the quantized weights are stored; None: none is quantized.
    """

    tensors: dict[str, TensorSpec]
    flat: frozenset[str]
    form: str | None


def unpack(stored: Mapping[str, TensorSpec]) -> Unpacked:
    """Return the tensors that a model has, without what a quantizer wrote beside them."""
    beside: dict[str, set[str]] = {}
    extra = {name for name in stored if _WHOLE_FILE.fullmatch(name)}
    for name in stored:
        if found := _ENDING.search(name, max(len(name) - LONGEST_ENDING, 0)):
            weight = f"{name[: found.start()]}.weight"
            weight = weight if weight in stored else weight + QUANTO_VALUES
            if weight in stored:
                beside.setdefault(weight, set()).add(found[1])
                extra.add(name)
    tensors = {name.removesuffix(QUANTO_VALUES) if name in beside else name: tensor for name, tensor in stored.items() if name not in extra}
    forms = Counter(f"{tensor.dtype} (GGUF)" for tensor in stored.values() if tensor.dtype in BLOCK_BITS)
    packed = {}
    for name, endings in beside.items():
        weight, dtype = name.removesuffix(QUANTO_VALUES), stored[name].dtype
        shown = (row for row in _FORMS if row[0] in endings and dtype.startswith(row[1]))
        for _, _, form, bits in islice(shown, 1):
            forms[form] += 1
            if bits == 4:
                packed[weight] = stored[name].shape
                tensors[weight] = TensorSpec((2 * (stored[name].bytes or 0),), dtype)
    flat = set()
    for name, shape in packed.items():
        values, rows = tensors[name].elements, _rows(name, shape, tensors)
        if rows and values % rows == 0:
            tensors[name] = TensorSpec((rows, values // rows), tensors[name].dtype)
        else:
            flat.add(name)
    return Unpacked(tensors, frozenset(flat), forms.most_common(1)[0][0] if forms else None)


def _rows(name: str, packed: Shape, tensors: Mapping[str, TensorSpec]) -> int | None:
    """Return the number of rows of a packed matrix: its own, where only columns are packed, else that of what is not packed."""
    if len(packed) == 2 and packed[1] != 1:
        return packed[0]
    module = name.rpartition(".")[0]
    if (bias := tensors.get(f"{module}.bias")) is not None:
        return bias.elements
    parent, _, layer = module.rpartition(".")
    reader, bias = (tensors.get(f"{parent}.{_READ_BY.get(layer[:5])}.{kind}") for kind in ("weight", "bias"))
    return None if reader is None or bias is None or not bias.elements else reader.elements // bias.elements
