"""`ports`: where other models can be attached to a UNet, and whether a ControlNet or T2I-Adapter fits."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from unetinspect.record import Fit, Port, PortFit, Trace
from unetinspect.units import format_shape, plural
from unetinspect.views.header import header
from unetinspect.views.table import Column, Table

_MOST = 8  # of a list that a line has
_KINDS = {"controlnet": "ControlNet", "t2i-adapter": "T2I-Adapter", "ip-adapter": "IP-Adapter"}


def ports_table(trace: Trace) -> Table:
    """Show each port with its shape at this size and the module that it joins, both weights of a layer in one row."""
    return Table(
        columns=(
            Column("port", _name, path=True),
            Column("shape", lambda port: format_shape(port.shape)),
            Column("module", lambda port: port.joins, path=True, drop=1),
            Column("for", lambda port: _KINDS[port.kind], in_heading=True),
        ),
        rows=[port for port in trace.ports if not port.name.endswith(".to_v_ip")],
        above=header(trace.model, trace.run),
        below=list(_port_lines(trace)),
        group=lambda port: _KINDS[port.kind],
        records=trace.ports,
    )


def fit_table(trace: Trace, fit: Fit) -> Table:
    """Show whether it fits, then the shape that the UNet expects of each tensor, and the shape that it would get."""
    return Table(
        columns=(
            Column("port or shared input", lambda row: row.name, path=True),
            Column("expected", lambda row: format_shape(row.takes)),
            Column("given", lambda row: format_shape(row.given)),
            Column("fits", lambda row: "yes" if row.fits else "NO"),
        ),
        rows=fit.rows,
        above=[*fit_lines(trace, fit), "", *header(trace.model, trace.run), f"given:  by {fit.name} ({fit.class_name})"],
        group=None if fit.class_name.startswith("IP-Adapter") else lambda row: row.name.rpartition(".")[0],
    )


def fit_lines(trace: Trace, fit: Fit) -> list[str]:
    """Write whether something fits, and each reason why not."""
    subject = f"{fit.name} ({fit.class_name}{f' for {fit.family}' if fit.family else ''})"
    if fit.fits:
        return [f"{subject} fits {trace.model.name}: all {plural(len(fit.rows), 'shape')} match"]
    if not any(row.takes for row in fit.rows):
        return [f"{subject} does not fit {trace.model.name}: {trace.model.class_name} has no port for its outputs"]
    wrong = sum(not row.fits for row in fit.rows)
    return [
        f"{subject} does not fit {trace.model.name}: {wrong} of {plural(len(fit.rows), 'tensor')} differ",
        *(f"  {line}" for line in _mismatches(trace, fit)),
    ]


def _mismatches(trace: Trace, fit: Fit) -> Iterator[str]:
    """Yield a line for each list of residuals or weights that is longer on one side, then why other tensors do not fit."""
    lists: dict[str, list[tuple[str, PortFit]]] = {}
    for row in fit.rows:
        name, number = _place(row)
        lists.setdefault(name, []).append((number, row))
    reasons: list[str] = []
    for name, rows in lists.items():
        alone = [number for number, row in rows if number and (row.takes is None or row.given is None)]
        if alone:
            takes, gives = sum(row.takes is not None for _, row in rows), sum(row.given is not None for _, row in rows)
            some = alone if len(alone) <= _MOST else [*alone[:2], "...", alone[-1]]
            yield f"{name}: {trace.model.name} takes {takes}, {fit.name} gives {gives}; unmatched: {', '.join(some)}"
        same = [row.reason or "" for number, row in rows if not row.fits and number not in alone]
        reasons += same if len(same) <= _MOST else [f"{same[0]}; {len(same) - 1} more like it"]
    yield from reasons


def _place(row: PortFit) -> tuple[str, str]:
    """Return the list that a row is of and its number there: of residuals it stands last, of an IP-Adapter's weights first; "": none."""
    first, _, rest = row.name.partition(".")
    name, _, last = row.name.rpartition(".")
    return (rest, first) if first.isdigit() else (name, last) if last.isdigit() else (row.name, "")


def _name(port: Port) -> str:
    key, _, weight = port.name.partition(".")
    return f"{port.name}, {key}.to_v_ip" if weight == "to_k_ip" else port.name


def _port_lines(trace: Trace) -> Iterator[str]:
    if not trace.ports:
        yield f"{trace.model.class_name} has no ports: its forward takes no residuals, and it loads no IP-Adapter"
        return
    residuals = _of_kind(trace.ports, "controlnet")
    if residuals:
        down = sum(port.name.startswith("down_block") for port in residuals)
        yield f"ControlNet: {plural(down, 'down-block residual')} + {len(residuals) - down} for the mid block, added to the skips"
    if features := _of_kind(trace.ports, "t2i-adapter"):
        yield f"T2I-Adapter: up to {plural(len(features), 'feature')}, one for each down block and one for the mid block"
    weights = [port for port in _of_kind(trace.ports, "ip-adapter") if "." in port.name]
    if weights:
        last = weights[-1].name.partition(".")[0]
        yield (
            f"IP-Adapter: {len(weights) // 2} cross-attention layers with to_k_ip and to_v_ip, keys 1, 3, ... {last}; "
            "4 image_tokens per image, 16 with IP-Adapter Plus"
        )


def _of_kind(ports: Sequence[Port], kind: str) -> list[Port]:
    return [port for port in ports if port.kind == kind]
