"""The U as one self-contained HTML page: the picture, details of a box or skip, and tables to search and sort."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterator
from functools import cache
from hashlib import sha256
from importlib.resources import files

from unetinspect.drawing.outline import Layout, Level, Outline
from unetinspect.drawing.page.markup import Markup, joined, script_json, tag
from unetinspect.drawing.page.record import page_record
from unetinspect.drawing.page.tables import PageTable, page_tables, table_markup
from unetinspect.drawing.svg import svg
from unetinspect.drawing.text_width import TIMES
from unetinspect.record import Trace
from unetinspect.units import format_bytes, format_count, format_si, plural
from unetinspect.views.header import header

_SCRIPTS = ("select.js", "panel.js", "tables.js", "page.js")
_HINT = "For details, click a box or a skip, or press Tab and Enter. Esc closes them."
# Before the tables are parsed: those in closed tabs need no layout.
_FIRST = 'document.documentElement.classList.add("scripted")'
_ICON = (
    "data:image/svg+xml,%3Csvg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 16 16'%3E%3Cpath d='M3 2v7a5 5 0 0 0 10 0V2' "
    "fill='none' stroke='%232f6f9f' stroke-width='3'/%3E%3C/svg%3E"
)


def page(outline: Outline, *, level: Level = "stage", layout: Layout = "tall", legend: bool = True) -> str:
    """Write one self-contained HTML page: picture, details of a box or a skip, tables of stages, skips, attention layers and modules.

    The same outline gives the same bytes. Without JavaScript, the picture and every row of the tables are there.
    """
    scripts = Markup(_FIRST), Markup('"use strict";\n(() => {\n' + "\n".join(map(_asset, _SCRIPTS)) + "})();\n")
    tables = page_tables(outline.trace)
    picture = svg(outline, level=level, layout=layout, legend=legend, interactive=True)
    body = tag(
        "body",
        tag("a", "Skip to the tables", href="#tables", class_="to-tables"),
        _banner(outline),
        tag("main", _workspace(outline, Markup(picture), tables)),
        tag("p", class_="unseen", id="said", role="status", aria_live="polite"),
        tag("script", script_json(page_record(outline)), type="application/json", id="record"),
        tag("script", scripts[1]),
    )
    return f"<!doctype html>\n{tag('html', _head(outline, scripts), Markup(chr(10)), body, lang='en')}\n"


def _head(outline: Outline, scripts: tuple[Markup, ...]) -> Markup:
    # Only scripts with these hashes run, whatever names a config contains; some styles of the picture are attributes.
    hashes = " ".join(f"'sha256-{b64encode(sha256(script.encode()).digest()).decode()}'" for script in scripts)
    policy = f"default-src 'none'; style-src 'unsafe-inline'; script-src {hashes}; img-src data:; base-uri 'none'; form-action 'none'"
    return tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=policy),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="light dark"),
        tag("meta", name="generator", content=f"unetinspect {outline.trace.run.versions.get('unetinspect', '')}".strip()),
        tag("title", outline.title or outline.name),
        tag("link", rel="icon", href=_ICON),
        tag("style", Markup(_asset("page.css"))),
        tag("script", scripts[0]),
    )


def _banner(outline: Outline) -> Markup:
    model, totals = outline.trace.model, outline.trace.totals
    facts = {
        "params": format_count(totals.params),
        f"MACs, batch {outline.trace.run.forward_batch}": format_si(totals.macs),
        "peak activations": format_bytes(totals.peak_activation_bytes),
        "skips": str(totals.skips.consumed),
        "attention layers": str(totals.attention.total + totals.attention.without_processor),
    }
    name = tag("div", tag("h1", model.name), tag("p", model.class_name, class_="class"), class_="name")
    shown = [tag("div", tag("dt", term), tag("dd", value), class_="fact") for term, value in facts.items()]
    return tag("header", name, tag("dl", *shown, class_="facts"), class_="banner")


def _workspace(outline: Outline, picture: Markup, tables: tuple[PageTable, ...]) -> Markup:
    view = tag("div", picture, class_="view", id="view", tabindex=0, role="region", aria_label="Picture of the U, scrollable")
    details = tag("div", tag("h2", "Details", id="details-title", tabindex=-1), id="details")
    close = tag("button", TIMES, type="button", id="close", class_="close", aria_label="Close the details")
    links = [
        tag("a", table.title, " ", tag("span", str(len(table.table.rows)), class_="count"), href=f"#{table.id}", id=f"tab-{table.id}")
        for table in tables
    ]
    tabs = tag("nav", tag("div", *links, class_="tabs", id="tabs"), aria_label="Tables")
    sections = [_section(table, is_open=table is tables[0]) for table in tables]
    return joined(
        tag(
            "section",
            tag("div", tag("h2", "The U", id="the-u"), tag("p", _HINT, id="hint", hidden=True, data_script=True), _zoom(), class_="bar"),
            tag("figure", view),
            class_="picture",
            aria_labelledby="the-u",
        ),
        tag("aside", details, close, class_="panel", id="panel", aria_labelledby="details-title", hidden=True),
        tag("div", tabs, *sections, _about(outline.trace), class_="tables", id="tables", tabindex=-1),
    )


def _zoom() -> Markup:
    buttons = [("out", "\N{MINUS SIGN}", "Smaller"), ("in", "+", "Larger"), ("fit", "Fit", "Fit to the window")]
    themes = [("", "System colors"), ("light", "Light"), ("dark", "Dark")]
    theme = tag("select", *(tag("option", text, value=name) for name, text in themes), id="theme", aria_label="Colors")
    inside = [tag("button", text, type="button", data_zoom=name, aria_label=label) for name, text, label in buttons]
    return tag("div", *inside, theme, class_="zoom", hidden=True, data_script=True)


def _section(table: PageTable, *, is_open: bool) -> Markup:
    heading = tag("h2", table.title, id=f"{table.id}-title")
    status = tag("p", plural(len(table.table.rows), table.noun), class_="status", role="status", aria_live="polite")
    scroll = tag("div", table_markup(table), class_="scroll", tabindex=0, role="region", aria_labelledby=f"{table.id}-title")
    controls = tag("div", *_controls(table), status, class_="controls", hidden=True, data_script=True)
    return tag(
        "section", heading, controls, scroll, class_="table open" if is_open else "table", id=table.id, aria_labelledby=f"{table.id}-title"
    )


def _controls(table: PageTable) -> Iterator[Markup]:
    if not table.table.rows:
        return
    if table.hint:
        found = tag(
            "input", type="search", id=f"{table.id}-search", placeholder=f"e.g. {table.hint}", autocomplete="off", spellcheck="false"
        )
        yield tag("label", tag("span", f"Search {table.noun}s"), found, class_="search")
    if len(table.kinds) > 1:
        radios = [tag("input", type="radio", name=f"{table.id}-kind", value=kind, checked=not kind) for kind in ("", *table.kinds)]
        labels = [tag("label", radio, tag("span", kind or "all kinds")) for radio, kind in zip(radios, ("", *table.kinds), strict=True)]
        yield tag("fieldset", tag("legend", "Kind"), *labels, class_="kinds")
    yield tag("button", "Copy paths", type="button", class_="copy")
    yield tag("button", f"Show all {len(table.table.rows)}", type="button", class_="all", hidden=True)


def _about(trace: Trace) -> Markup:
    lines = [*header(trace.model, trace.run)[1:], *trace.run.notes]
    made = ", ".join(f"{name} {version}" for name, version in trace.run.versions.items())
    own = "Every number was observed in one forward pass. This page is one file: it loads nothing and sends nothing."
    inside = [tag("li", " ".join(line.split())) for line in [*lines, *([f"traced with {made}"] if made else [])]]
    return tag(
        "section",
        tag("h2", "About this pass", id="about-title"),
        tag("ul", *inside),
        tag("p", own),
        class_="about",
        aria_labelledby="about-title",
    )


@cache
def _asset(name: str) -> str:
    return files("unetinspect.drawing.page").joinpath(name).read_text(encoding="utf-8")
