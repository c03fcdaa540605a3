"""`inputs`: the arguments of `forward`, and Python that calls it with them; the same around a capture, for `attn` and `skips`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from textwrap import indent
from typing import Any, Literal

from unetinspect.record import InputInfo, OutputInfo, Trace
from unetinspect.unets.builder import nest
from unetinspect.units import format_shape
from unetinspect.views.header import header
from unetinspect.views.table import Column, Table

_INDENT = "    "


def inputs_table(trace: Trace) -> Table:
    """Show each argument with its shape, the names of its axes, its dtype and the config keys that require it."""
    return Table(
        columns=(
            Column("argument", lambda given: given.name),
            Column("shape", lambda given: str(given.value) if given.shape is None else format_shape(given.shape)),
            Column("axes", lambda given: ", ".join(given.axes) or "-", drop=1, wrap=16),
            Column("dtype", lambda given: given.dtype or "-"),
            Column("required by", lambda given: given.config_key or "always", wrap=24),
        ),
        rows=trace.run.inputs,
        above=header(trace.model, trace.run),
        group=lambda given: given.name.rpartition(".")[0],
    )


def inputs_code(trace: Trace) -> str:
    """Write a Python script that builds this UNet from its config and calls it with these inputs, on meta."""
    return _script(trace, prints=_prints(trace))


def capture_code(trace: Trace, tap: Literal["maps", "skips"], words: Mapping[str, Sequence[str]]) -> str:
    """Write the same script with `unetinspect.capture` around the call; `words` are the arguments of `tap`, an empty one is left out."""
    arguments = (f"{name}={values[0] if len(values) == 1 else [*values]!r}" for name, values in words.items() if values)
    names = {"maps": "found.path, found.kind, found.axes", "skips": "found.source, found.path, found.axes"}[tap]
    imports = f"""from unetinspect import capture, {tap}

wanted = {tap}({", ".join(arguments)})
"""
    prints = f"""for found in seen.{tap}:
    print({names}, tuple(found.tensor.shape))

# In a pipeline, over all of its steps:
# with capture(pipe, wanted) as seen:
#     image = pipe(prompt).images[0]"""
    return _script(trace, imports=imports, around="with capture(unet, wanted) as seen:", prints=prints)


def _script(trace: Trace, *, prints: str, imports: str = "", around: str = "") -> str:
    model = trace.model
    # `_class_name` is in the import.
    config = "\n".join(f"{_INDENT}{key!r}: {value!r}," for key, value in model.given_config.items() if key != "_class_name")
    arguments = {given.name: repr(given.value) if given.shape is None else _variable(given) for given in trace.run.inputs}
    passed = ",\n".join(f"{_INDENT}{name}={_expression(value)}" for name, value in nest(arguments).items())
    tensors = "\n".join(
        f"{_INDENT}{_variable(given)} = torch.zeros({given.shape}, dtype=torch.{given.dtype}){_comment(given)}"
        for given in trace.run.inputs
        if given.shape is not None
    )
    call = f"output = unet(\n{passed},\n)"
    call = indent(f"{around}\n{indent(call, _INDENT)}" if around else call, _INDENT)
    to = "device" if trace.run.dtype == "float32" else f"device, torch.{trace.run.dtype}"
    return f"""import torch
from {model.module} import {model.class_name}
{imports}
config = {{
{config}
}}

device = "meta"  # shapes only: to compute, use "cuda" or "cpu" and real values
with torch.device(device), torch.no_grad():
    unet = {model.class_name}.from_config(config).to({to})
{tensors}
{call}

{prints}
"""


def _variable(given: InputInfo) -> str:
    """Return the variable of an input: its last name; one in a list has the list's name and its place in it."""
    *_, name = (part for part in given.name.split(".") if not part.isdigit())
    place = given.name.rpartition(".")[2]
    return f"{name}_{place}" if place.isdigit() else name


def _comment(given: InputInfo) -> str:
    axes = f"({', '.join(given.axes)})" if given.axes else ""
    asked = f"required by {given.config_key}" if given.config_key else ""
    text = "; ".join(part for part in (axes, asked) if part)
    return f"  # {text}" if text else ""


def _expression(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f'"{key}": {_expression(item)}' for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_expression, value)) + "]"
    return str(value)


def _prints(trace: Trace) -> str:
    """Write the lines that print the shape of each returned tensor, those in one list together."""
    lines: dict[str, str] = {}
    for output in trace.outputs or (OutputInfo(name="sample", shape=trace.output.shape, dtype=trace.output.dtype),):
        name, _, place = output.name.partition(".")
        if name.isdigit():
            lines["output"] = "print([tuple(tensor.shape) for tensor in output])"
        elif place:
            lines[name] = f"print([tuple(tensor.shape) for tensor in output.{name}])"
        else:
            lines[name] = f"print(tuple(output{'.' if name else ''}{name}.shape))  # {format_shape(output.shape)}"
    return "\n".join(lines.values())
