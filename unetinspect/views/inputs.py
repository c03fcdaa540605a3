"""`inputs`: what `forward` needs, and Python that calls it so."""

from __future__ import annotations

from pprint import pformat
from typing import Any

from unetinspect.record import InputInfo, Trace
from unetinspect.units import format_shape
from unetinspect.views.header import header
from unetinspect.views.table import Column, Table

_INDENT = "    "


def inputs_table(trace: Trace) -> Table:
    """Show each argument with its shape, the names of its axes, its dtype and the config keys that ask for it."""
    return Table(
        columns=(
            Column("argument", lambda given: given.name),
            Column("shape", lambda given: "None" if given.shape is None else format_shape(given.shape)),
            Column("axes", lambda given: ", ".join(given.axes) or "-", drop=1, wrap=16),
            Column("dtype", lambda given: given.dtype or "-"),
            Column("asked for by", lambda given: given.config_key or "always", wrap=24),
        ),
        rows=trace.run.inputs,
        above=header(trace.model, trace.run),
        group=lambda given: given.name.rpartition(".")[0],
    )


def inputs_code(trace: Trace) -> str:
    """Write a Python script that builds this UNet from its config and calls it with these inputs, on meta."""
    model = trace.model
    given = {key: value for key, value in model.given_config.items() if key != "_class_name"}  # the import says it
    tensors, names = _tensors(trace)
    call = ",\n".join(f"{_INDENT * 2}{line}" for line in _arguments(names))
    return f"""import torch
from diffusers import {model.class_name}

config = {pformat(given, sort_dicts=False, width=100)}

with torch.device("meta"), torch.no_grad():  # shapes alone: put "cuda" or "cpu" here, and real values, to compute
    unet = {model.class_name}.from_config(config){_to_dtype(trace.run.dtype)}
{tensors}
    sample_out = unet(
{call},
    ).sample

print(tuple(sample_out.shape))  # {format_shape(trace.output.shape)}
"""


def _tensors(trace: Trace) -> tuple[str, dict[str, str]]:
    """Write one assignment for each input, and say which variable, or None, each argument is given."""
    lines, names = [], {}
    for given in trace.run.inputs:
        variable = given.name.rpartition(".")[2]
        names[given.name] = "None" if given.shape is None else variable
        if given.shape is not None:
            lines.append(f"{_INDENT}{variable} = torch.zeros({given.shape}, dtype=torch.{given.dtype}){_comment(given)}")
    return "\n".join(lines), names


def _comment(given: InputInfo) -> str:
    axes = f"({', '.join(given.axes)})" if given.axes else ""
    asked = f"asked for by {given.config_key}" if given.config_key else ""
    text = "; ".join(part for part in (axes, asked) if part)
    return f"  # {text}" if text else ""


def _arguments(names: dict[str, str]) -> list[str]:
    nested: dict[str, Any] = {}
    for name, variable in names.items():
        *outer, last = name.split(".")
        holder = nested
        for key in outer:
            holder = holder.setdefault(key, {})
        holder[last] = variable
    return [f"{name}={_expression(value)}" for name, value in nested.items()]


def _expression(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f'"{key}": {_expression(item)}' for key, item in value.items()) + "}"
    return str(value)


def _to_dtype(dtype: str) -> str:
    return "" if dtype == "float32" else f".to(torch.{dtype})"
