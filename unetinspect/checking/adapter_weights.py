"""A LoRA or one of its relatives compared with a UNet, layer by layer, by its header alone."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from msgspec.structs import replace

from unetinspect.checking.weight_findings import EXAMPLES, Difference, Kind, finding_of, group_by_module, place
from unetinspect.checkpoint.adapters import FAMILIES
from unetinspect.checkpoint.catalog_tensors import flat_names
from unetinspect.checkpoint.lora import Place, find_places, form_words, read_lora
from unetinspect.checkpoint.lora_layers import Fault, Layer, faults_of, module_of, prefix_words
from unetinspect.checkpoint.original_layout import FileTensor
from unetinspect.checkpoint.safetensors_header import Header
from unetinspect.record import Shape
from unetinspect.record.check import Finding, TensorDifference, WeightsCheck
from unetinspect.record.checkpoint import Checkpoint, Lora
from unetinspect.units import joined, plural

_TEXT = (".attn2.to_k.weight", ".attn2.to_v.weight")
_MOTION = "motion_modules"
_BROKEN = "save or download the file again: loaders refuse it, or ignore such layers"


def compare_lora(
    name: str, shapes: Mapping[str, Shape], header: Header, checkpoint: Checkpoint, lora: Lora
) -> tuple[WeightsCheck, tuple[Finding, ...]]:
    """Compare a LoRA with the UNet called `name`, whose tensors have these shapes, and return a finding for each cause of a difference.

    What is counted are layers: how many tensors one has is up to the LoRA's form. Those of text encoders are not compared.
    """
    layers, _, known = read_lora(header)
    inside = [layer for layer in layers if layer.part not in lora.text_encoders]
    places = find_places(inside, shapes, flat_names(shapes))
    faults = faults_of(layers)
    faulty = {layer.name for fault in faults for layer in fault.layers}
    renamed, differences = _compared([layer for layer in inside if layer.name not in faulty], places, known)
    missing = sum(bool(layer.missing) for layer in inside)
    unplaced = sum(one.kind == "unexpected" for one in differences)
    unexpected = unplaced + len(renamed)
    mismatched = len(differences) - unplaced + sum(layer.name in faulty and not layer.missing for layer in inside)
    matched = len(inside) - missing - unexpected - mismatched
    findings = _findings(differences, [f"{place.path}.weight" for place in places.values()], shapes)
    is_of_a_unet = all(layer.part == "unet" for layer in inside)
    if not inside or not is_of_a_unet:
        what = checkpoint.summary + ("" if inside else ": no layer of a UNet")
        findings = [Finding(about="weights", kind="unexpected", what=what, count=len(inside))]
    elif findings and checkpoint.models:
        findings[0] = replace(findings[0], advice=f"it fits {', '.join(checkpoint.models)} of the catalog")
    elif any(f".{_MOTION}." in tensor for tensor in shapes):
        # A finding's advice is how to get motion modules, which this UNet has.
        in_mid_block = f"the LoRA is for a motion module with a mid block (AnimateDiff v2); {name} has none there"
        findings = [replace(one, advice=in_mid_block if one.where == (f"mid_block.{_MOTION}",) else None) for one in findings]
    if inside and is_of_a_unet:
        findings = [*_findings_of_the_file(name, inside, faults, renamed, places), *findings]
    layers_of = f"{len(inside)} {'UNet ' if is_of_a_unet else ''}layers"
    summary = f"{matched} of {layers_of} match {name} by name and shape" if inside else "no UNet layers"
    if lora.text_encoders:
        encoders = joined(part.replace("_", " ") for part in lora.text_encoders)
        summary += f"; {plural(len(layers) - len(inside), 'layer')} of {encoders} not compared"
    check = WeightsCheck(
        name=checkpoint.name,
        layout=checkpoint.layout,
        tensors=len(inside),
        matched=matched,
        missing=missing,
        unexpected=unexpected,
        mismatched=mismatched,
        fits=checkpoint.models,
        family=checkpoint.family,
        summary=f"{form_words(lora)}: {summary}",
    )
    return check, tuple(findings)


def _compared(layers: Iterable[Layer], places: Mapping[str, Place], known: Mapping[str, Place]) -> tuple[list[Layer], list[Difference]]:
    """Return the layers that would match if their unknown prefix were renamed, and how the others that do not match differ.

    `places` are those in the UNet, `known` those in a model of the catalog that more of them may have.
    """
    renamed, differences = [], []
    for layer in layers:
        found = places.get(layer.name)
        # The weight that it is for, with the axes that the file shows.
        file = FileTensor(layer.name, tuple(axis for axis in next(iter(layer.made.weights), ()) if axis is not None))
        if found is None:
            path = known[layer.name].path if layer.name in known else module_of(layer.name)
            differences.append(Difference("unexpected", f"{path}.weight", file, None))
        elif not found.fits:
            differences.append(Difference("mismatched", f"{found.path}.weight", file, found.shape))
        elif layer.prefix:
            renamed.append(layer)
    return renamed, differences


def _findings_of_the_file(
    name: str, layers: Sequence[Layer], faults: Iterable[Fault], renamed: Sequence[Layer], places: Mapping[str, Place]
) -> Iterator[Finding]:
    """Yield what is wrong with a LoRA whatever the model: unusable layers, an unknown prefix; `renamed` would match without that."""
    for fault in faults:
        kind: Kind = "missing" if fault.layers[0].missing else "mismatched"
        yield _layers_finding(kind, fault.what, _BROKEN, fault.layers, places)
    if prefixed := [layer for layer in layers if layer.prefix]:
        what, rename = prefix_words(prefixed)
        yield _layers_finding("unexpected", what, f"{rename}; then {len(renamed)} of {len(prefixed)} match {name}", renamed, places)


def _layers_finding(kind: Kind, what: str, advice: str, layers: Sequence[Layer], places: Mapping[str, Place]) -> Finding:
    examples = []
    for layer in layers[:EXAMPLES]:
        place = places.get(layer.name)
        name, shape = (f"{place.path}.weight", place.shape) if place else (layer.name, None)
        examples.append(TensorDifference(name=name, original_name=layer.name if place else None, expected=shape))
    return Finding(about="weights", kind=kind, what=what, advice=advice, count=len(layers), examples=tuple(examples))


def _findings(differences: Sequence[Difference], found: Iterable[str], shapes: Mapping[str, Shape]) -> list[Finding]:
    """Return a finding for each cause; the width of the text embeddings, which gives the family away, comes first.

    Of a file for another family, the others are consequences.
    """
    by_width: dict[tuple[int, int], list[Difference]] = {}
    others = []
    for one in differences:
        widths = [shape[1] for shape in (one.tensor.shape if one.tensor else (), one.expected or ()) if len(shape) > 1]
        if one.name.endswith(_TEXT) and len(set(widths)) == 2:
            by_width.setdefault((widths[0], widths[1]), []).append(one)
        else:
            others.append(one)
    findings = []
    for pair, group in by_width.items():
        file, unet = (f"{width}-dim" + (f" ({FAMILIES[width]})" if width in FAMILIES else "") for width in pair)
        what = f"{plural(len(group), 'layer')} read {file} text embeddings, expected {unet}"
        findings.append(finding_of(what, group, where=("cross_attention_dim",), advice=None))
    rest = group_by_module(place(others, [*found, *(one.name for one in others)], shapes), noun="layer")
    return findings + [replace(one, follows=True) for one in rest] if findings else rest
