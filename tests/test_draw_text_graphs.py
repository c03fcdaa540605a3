"""`draw` as Mermaid and as DOT: strict small grammars of what is written, and every fact of the record in it."""

from __future__ import annotations

import re
from collections import Counter
from html import unescape
from xml.etree import ElementTree as ET

import pytest

from tests.drawn import DRAWN, drawn
from tests.test_draw_text import evil_record, marks_in, marks_of, outline, sums_in, sums_of
from unetinspect.drawing.dot import dot
from unetinspect.drawing.forms import Level
from unetinspect.drawing.mermaid import mermaid
from unetinspect.drawing.outline import Outline, outline_of

LEVELS: tuple[Level, ...] = ("stage", "layer")
_NODE = r"(?:b\d+(?:l\d+)?|input|output)"
_LABEL = r'"(?:[^"#<>`\[\]{}|\\;\x00-\x1f\x7f-\x9f]|#\d+;|<br/>)*"'
_MERMAID = [
    rf"(?P<node>{_NODE})\[(?P<label>{_LABEL})\]",
    rf"(?:input\(\[{_LABEL}\]\) --> {_NODE}|{_NODE} --> output\(\[{_LABEL}\]\)|output\(\[{_LABEL}\]\) --- {_NODE})",
    rf"{_NODE} (?:-->|---)(?:\|{_LABEL}\|)? {_NODE}",
    rf"(?P<source>{_NODE}) -\.->(?:\|(?P<channels>{_LABEL})\|)? (?P<target>{_NODE})",
    rf"subgraph (?P<group>\w+)\[(?P<title>{_LABEL})\]",
    r"(?P<end>end)",
    r"(?:classDef|style) \w+ [\w:#,]+|class [b\d,]+ \w+|%% [^{}\x00-\x1f]*",
]
_STRING = r'"(?:[^"\\]|\\["\\])*"'
_DOT = [
    r"digraph unet \{|\}|subgraph cluster_\w+ \{|node \[.*\];|edge \[.*\];|graph \[.*,|fontname=.*label=<(?P<caption>.*)>\];",
    rf'label={_STRING}; color="#\w+"; style=rounded; labeljust=c; labelloc=t;',
    r"(?P<node>b\d+) \[label=<(?P<table><TABLE .*</TABLE>)>\];",
    rf"output \[label={_STRING}\];|output -> b\d+ \[dir=back\];|b\d+ -> output;",
    rf"b\d+ -> b\d+ \[(?:dir=back, )?label={_STRING}\];",
    r'(?P<source>b\d+):(?P<made>m\d+):e -> (?P<target>b\d+):(?P<taken>t\d+):w \[constraint=false, style=dashed, color="#b45309"\];',
    r"\{ rank=same; b\d+; b\d+; \}",
]


def parsed(text: str, grammar: list[str]) -> list[dict[str, str]]:
    """Return what each line is; a line that is none of the grammar fails."""
    found = []
    for line in text.split("\n"):
        matches = [match for rule in grammar if (match := re.fullmatch(rule, line.strip()))]
        assert matches, line
        found.append({key: value for key, value in matches[0].groupdict().items() if value is not None})
    return found


def flowchart(text: str) -> list[dict[str, str]]:
    """Return the lines of a flowchart behind its title."""
    head, body = text.removesuffix("\n").split("\n---\nflowchart TB\n")

    assert re.fullmatch(r'---\ntitle: "(?:[^"\\\n]|\\.)*"\nconfig:\n  flowchart:\n    wrappingWidth: 600', head)
    return parsed(body, _MERMAID)


def read(label: str) -> str:
    """Return what Mermaid shows of a label."""
    return re.sub(r"#(\d+);", lambda found: chr(int(found[1])), label[1:-1].replace("<br/>", "\n"))


def boxes_of(lines: list[dict[str, str]]) -> dict[str, str]:
    """Return the first word of each node and of each subgraph of layers, by its name in the flowchart."""
    labels = {line["node"]: line["label"] for line in lines if "node" in line}
    labels |= {line["group"]: line["title"] for line in lines if line.get("group", "").startswith("b") and line["group"][1:].isdigit()}
    return {name: read(label).split("\n")[0].split(": ")[0] for name, label in labels.items()}


def wanted_edges(outlined: Outline) -> Counter[tuple[str, str]]:
    """Count the edges of skips between boxes: one for each pair of modules that a skip joins."""
    pairs = {(skip.index, skip.source, skip.target): skip for skip in outlined.trace.skips}
    return Counter((outlined.box_of(skip.source_stage).name, outlined.box_of(skip.target_stage).name) for skip in pairs.values())


@pytest.mark.parametrize("name", DRAWN)
@pytest.mark.parametrize("level", LEVELS)
def test_a_flowchart_is_well_formed_and_tells_the_record(name: str, level: Level) -> None:
    """Each line is of the grammar, what is joined is declared once, each skip is one edge between its boxes, sums and marks add up."""
    text = mermaid(outline(name), level=level)
    lines = flowchart(text)
    nodes = [line["node"] for line in lines if "node" in line]
    names = boxes_of(lines)
    skips = [line for line in lines if "source" in line]
    joined = {end for line in skips for end in (line["source"], line["target"])}
    shown = "\n".join(read(line["label"]) for line in lines if "node" in line)
    depth = [1 if "group" in line else -1 for line in lines if "group" in line or "end" in line]

    assert text == mermaid(outline(name), level=level)
    assert len(set(nodes)) == len(nodes)
    assert joined <= set(nodes)
    assert sum(depth) == 0
    assert Counter(tuple(names[line[end].partition("l")[0]] for end in ("source", "target")) for line in skips) == wanted_edges(
        outline(name)
    )
    assert sums_in(shown.replace("→", "->")) == sums_of(drawn(name))
    assert marks_in(shown) == marks_of(drawn(name))
    assert {box.name for box in outline(name).boxes} <= set(names.values())
    assert sum(len(read(line["channels"]).split(", ")) for line in skips if "channels" in line) == len(skips)


@pytest.mark.parametrize("name", DRAWN)
def test_a_layer_takes_the_skip_that_the_record_says(name: str) -> None:
    """At the level of layers a skip's edge ends at the layer whose sum is written in it."""
    lines = flowchart(mermaid(outline(name), level="layer"))
    labels = {line["node"]: read(line["label"]) for line in lines if "node" in line}
    entered = Counter(line["target"] for line in lines if "source" in line)

    assert {node: label.count(" + ") for node, label in labels.items() if " + " in label} == dict(entered)


@pytest.mark.parametrize("name", DRAWN)
def test_github_draws_it(name: str) -> None:
    """At the level of stages it stays below Mermaid's limits: 500 edges, 50,000 characters; so does the level of layers of these."""
    for level in LEVELS:
        text = mermaid(outline(name), level=level)

        assert len(re.findall(r"---|-->|-\.->", text.partition("flowchart TB")[2])) < 280
        assert len(text) < 50_000


@pytest.mark.parametrize("name", DRAWN)
@pytest.mark.parametrize("level", LEVELS)
def test_a_digraph_is_well_formed_and_tells_the_record(name: str, level: Level) -> None:
    """Each line is of the grammar, each label is XML, each skip is one edge from its row to its row, sums and marks add up."""
    text = dot(outline(name), level=level)
    lines = parsed(text.removesuffix("\n"), _DOT)
    tables = {line["node"]: ET.fromstring(line["table"]) for line in lines if "node" in line}
    names = {node: table.findtext(".//B") or "" for node, table in tables.items()}
    ports = {(node, cell.get("PORT")): cell.text or "" for node, table in tables.items() for cell in table.iter("TD") if cell.get("PORT")}
    skips = [line for line in lines if "source" in line]
    shown = "\n".join("".join(cell.itertext()) for table in tables.values() for cell in table.iter("TD"))

    assert text == dot(outline(name), level=level)
    assert text.count("{") == text.count("}")
    assert Counter((names[line["source"]], names[line["target"]]) for line in skips) == wanted_edges(outline(name))
    assert {(line["source"], line["made"]) for line in skips} | {(line["target"], line["taken"]) for line in skips} == set(ports)
    for line in skips:
        channels = ports[line["source"], line["made"]].rpartition("skip ")[2]
        assert f" + {channels} → " in ports[line["target"], line["taken"]]
    assert sums_in(shown.replace("→", "->")) == sums_of(drawn(name))
    assert marks_in(shown) == marks_of(drawn(name))
    assert set(names.values()) == {box.name for box in outline(name).boxes}


@pytest.mark.parametrize("level", LEVELS)
def test_names_cannot_break_the_syntax(level: Level) -> None:
    """Quotes, brackets, arrows, directives, escape sequences and entities in names are text in both languages."""
    outlined = outline_of(evil_record())
    evil = outlined.on("left")[1].name
    shown = evil.replace("\x1b", r"\x1b").replace("\n", r"\n")
    chart = flowchart(mermaid(outlined, level=level))
    graph = parsed(dot(outlined, level=level).removesuffix("\n"), _DOT)
    tables = [line["table"] for line in graph if "table" in line]

    assert shown in "\n".join(read(line[key]) for line in chart for key in ("label", "title") if key in line)
    assert shown in [ET.fromstring(table).findtext(".//B") for table in tables]
    assert sum("source" in line for line in chart) == sum("source" in line for line in graph) == len(outlined.trace.skips)
    assert unescape("".join(line.get("caption", "") for line in graph)).isprintable()
