"""`draw` in the terminal, as Mermaid and as DOT: the shape of what is written, and every fact of the record read from it again."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from html import unescape
from itertools import pairwise, takewhile
from xml.etree import ElementTree as ET

import pytest
from msgspec.structs import replace

from tests.drawn import CASES, DRAWN, EVIL, KNOWN, LEVELS, drawn, outlined, renamed
from tests.tiny import traced
from unetinspect import Trace
from unetinspect.drawing.graphs import dot, mermaid
from unetinspect.drawing.outline import Level, Outline, mark_text, outline_of
from unetinspect.drawing.svg import svg
from unetinspect.drawing.text import text as drawn_text
from unetinspect.drawing.text.canvas import fold
from unetinspect.record import SkipChange
from unetinspect.terminal import cells

_SUM = re.compile(r"(\d+) \+ (\d+)(?: = \d+ \(MISMATCH\))? -> (\d+)(?:, (\d+) times)?")
_MARK = re.compile(r"(?:(\d+) )?\b(self|cross|joint|temporal|pooling) (\d+)x(\d+)")
_LINE = re.compile(r"\+-+ (\d+) -+>\|")


def ascii_text(outline: Outline, *, width: int | None = 80, level: Level = "stage") -> str:
    """Draw in ASCII without colors."""
    return drawn_text(outline, level=level, width=width, unicode=False, color=False)


def sums_of(trace: Trace) -> Counter[tuple[int, ...]]:
    """Count the (hidden, skip, out) channels of a record."""
    return Counter((skip.hidden_channels, skip.skip_channels, skip.out_channels or 0) for skip in trace.skips)


def sums_in(text: str) -> Counter[tuple[int, ...]]:
    """Count the (hidden, skip, out) channels that a text has."""
    found: Counter[tuple[int, ...]] = Counter()
    for *numbers, times in _SUM.findall(text.replace("→", "->")):
        found[tuple(map(int, numbers))] += int(times or 1)
    return found


def marks_of(trace: Trace) -> Counter[tuple[str, int, int]]:
    """Count the attention layers of a record by kind and map, each layer once."""
    layers = {(layer.path, layer.kind, *layer.map_shape[1:]) for layer in trace.attentions}
    return Counter((kind, queries, keys) for _, kind, queries, keys in layers)


def marks_in(text: str) -> Counter[tuple[str, int, int]]:
    """Count the attention layers that a text has, by kind and map."""
    found: Counter[tuple[str, int, int]] = Counter()
    for count, kind, queries, keys in _MARK.findall(text):
        found[kind, int(queries), int(keys)] += int(count or 1)
    return found


def drawn_ends(text: str) -> list[tuple[str, int, str]]:
    """Return what each level line joins, read from the picture alone: the module it leaves, its channels, the module it enters."""
    lines = text.split("\n")

    def named_above(place: int, column: int) -> str:
        while lines[place][column : column + 2] != "+ ":
            assert lines[place][column] == "|"
            place -= 1
        return lines[place][column + 2 :].split()[0]

    found = []
    for place, line in enumerate(lines):
        for match in _LINE.finditer(line):
            left, right = line.rfind("|", 0, match.start()), match.end() - 1
            ends = [line[left + 1 : match.start()].strip(), line[right + 1 :].strip().partition("  ")[0]]
            boxes = [named_above(place, left), named_above(place, right)]
            paths = [
                box if end == "output" else end if end.startswith(box) else f"{box}.{end}" for box, end in zip(boxes, ends, strict=True)
            ]
            found.append((paths[0], int(match[1]), paths[1]))
    return found


def boxes_in(text: str) -> list[tuple[str, list[str]]]:
    """Return the frame and the rows of each box in one column, read from a picture of plain ASCII."""
    found: list[tuple[str, list[str]]] = []
    lines = text.split("\n")
    for place, line in enumerate(lines):
        for match in re.finditer(r"\+ (\S.*?) \+(?= |$)", line):
            below = [row[match.start() : match.end()] for row in lines[place + 1 :]]
            rows = list(takewhile(lambda row: row[:1] == "|", below))
            found.append((match[1], [row[2:].rstrip("|+ ") for row in rows]))
    return found


def test_ends_of_skips_are_read_from_a_picture() -> None:
    """The reading that the next tests rely on sees where a line leaves and enters."""
    text = "+ a.0  8x8 +        + b.1 -- 8x8 +\n| output   +-- 3 -->| r.2  1 + 3 |"

    assert drawn_ends(text) == [("a.0", 3, "b.1.r.2")]


@pytest.mark.parametrize(("name", "level", "width"), CASES)
def test_every_fact_is_in_the_text(name: str, level: Level, width: int) -> None:
    """No line is too wide, all is ASCII, and every box, shape, sum and attention layer of the record can be read again."""
    trace, outline = drawn(name), outlined(name)
    text = ascii_text(outline, width=width, level=level)
    whole = re.sub(r"\n +", " ", text) if width < 60 else text  # a folded line is one line again

    assert max(map(len, text.split("\n"))) <= width
    assert text.isascii()
    assert sums_in(whole) == sums_of(trace)
    assert marks_in(whole) == marks_of(trace)
    assert [box.name for box in outline.boxes if box.name not in whole] == []
    assert [stage.name for stage in trace.stages if stage.out_shape and str(stage.out_shape) not in whole] == []


@pytest.mark.parametrize(
    ("name", "width", "level"), [(name, (80, 120)[place % 2], LEVELS[place % 3 % 2]) for place, name in enumerate(DRAWN)]
)
def test_every_skip_is_a_level_line_and_every_box_begins_with_its_summary(name: str, width: int, level: Level) -> None:
    """Each skip is drawn once, with its channels, between the rows of its modules; channels and attention are right under the title."""
    outline = outlined(name)
    text = ascii_text(outline, width=width, level=level)
    boxes, summary = boxes_in(text), re.compile(r"\d+ (?:channels?|self|cross|joint|temporal|pooling)\b")

    stages = ascii_text(outline, width=width)
    assert sorted(drawn_ends(stages)) == sorted({(skip.source, skip.skip_channels, skip.target) for skip in drawn(name).skips})
    for box in outline.boxes:
        for head, rows in (boxed for boxed in boxes if boxed[0].split()[0] == box.name):
            said = [row for row in rows if summary.match(row)]
            marks = box.marks if level == "stage" or not box.layers else ()
            words = [head.rpartition("  ")[2].rpartition("- ")[2].partition(", ")[2], *", ".join(said).split(", ")]

            assert rows[: len(said)] == said
            assert list(filter(None, words)) == [*([f"{box.channels} channels"] if box.channels else []), *map(mark_text, marks)]


@pytest.mark.parametrize("name", DRAWN)
def test_box_characters_say_the_same_in_two_columns(name: str) -> None:
    """Without a width, at most 120 columns: the same facts; arrowheads are at the end of their lines; known U's are pictures at 80."""
    text = drawn_text(outlined(name), level="stage", width=None, unicode=True, color=False)
    lines = text.split("\n")

    assert max(map(cells, lines)) <= 120
    assert sums_in(text) == sums_of(drawn(name))
    assert marks_in(text) == marks_of(drawn(name))
    assert text.count("▶") == len({(skip.source, skip.target) for skip in drawn(name).skips})
    for before, after in pairwise(lines):
        assert not any(below == "▲" and above == "│" for above, below in zip(before, after, strict=False))
        assert not any(below == "│" and above == "▼" for above, below in zip(before, after, strict=False))
    assert name not in KNOWN or any(line.count("+ ") >= 2 for line in ascii_text(outlined(name)).split("\n"))


@pytest.mark.parametrize("width", [1, 20, 33])
def test_narrow_terminals_get_everything_too(width: int) -> None:
    """At 20 columns a list is folded: nothing is cut, and no line is wider than 20."""
    text = ascii_text(outlined("sd15"), width=width)
    solid = re.sub(r"\s", "", text)

    assert max(map(len, text.split("\n"))) <= max(width, 20)
    for skip in drawn("sd15").skips:
        assert f"{skip.hidden_channels}+{skip.skip_channels}->{skip.out_channels},skipfrom{skip.source}" in solid
        assert f"skip{skip.skip_channels}->{skip.target}" in solid
    assert fold("模型模型 x", 6) == ["模型模", "型 x"]


def test_skips_that_are_not_a_stack_are_named_where_lines_would_cross() -> None:
    """Where skips are not consumed in the reverse of their order, what cannot be a level line names its other end in both boxes."""
    trace = traced("sd15")
    one, *between, other = trace.skips
    ends = ("target", "target_stage", "hidden_channels", "out_channels", "concat_channels")
    first = replace(one, **{end: getattr(other, end) for end in ends})
    last = replace(other, **{end: getattr(one, end) for end in ends})
    crossed = replace(trace, skips=(last, *between, first))
    text = ascii_text(outline_of(crossed), width=120)
    lines = drawn_ends(text)

    assert {(source, target) for source, _, target in lines} < {(skip.source, skip.target) for skip in crossed.skips}
    assert len(lines) == 10
    for skip in (first, last):
        assert f"{skip.skip_channels} -> {skip.target} " in text
        assert f"  skip from {skip.source} " in text


def test_every_form_has_the_same_label_for_a_changed_skip() -> None:
    """A filter, and a sum with what is not a source of the skip, are beside its channels; a sum of its own sources is not."""
    trace = traced("sd15")
    first, second, third, *others = trace.skips
    added = SkipChange(kind="sum", with_=("down_block_additional_residuals.1",), shape=first.shape, ops=("add",))
    own = replace(added, with_=third.sources)
    filtered = SkipChange(kind="filter", shape=first.shape, ops=("fft",))
    changes = ((added, filtered), (added, added), (own,))
    changed = [replace(skip, changes=those) for skip, those in zip((first, second, third), changes, strict=True)]
    outline = outline_of(replace(trace, skips=(*changed, *others)))
    forms = [ascii_text(outline, width=width, level=level) for width in (40, 80, 120) for level in LEVELS]
    forms += [form(outline, level=level).split("<desc")[-1] for form in (mermaid, dot, svg) for level in LEVELS]

    assert first.skip_channels == second.skip_channels == third.skip_channels == 1280
    assert [(text.count("1280 (sum, filter)"), text.count("1280 (sum)"), text.count("(sum")) for text in forms] == [(1, 1, 2)] * 12


@pytest.mark.parametrize("width", [80, 120])
def test_what_a_controlnet_returns_is_beside_its_size(width: int) -> None:
    """The zero convolutions run from top to bottom, each beside or below the first block of its size, the middle's beside the middle."""
    outline = outlined("controlnet-sd15-canny")
    lines = ascii_text(outline, width=width).split("\n")
    heights = {box.name: next(place for place, line in enumerate(lines) if f" {box.name} " in line) for box in outline.boxes}
    branches = [heights[box.name] for box in outline.on("right")]

    assert branches == sorted(branches)
    assert heights["controlnet_down_blocks.0-2"] == heights["conv_in"]
    assert heights["controlnet_down_blocks.4-5"] == heights["down_blocks.1"] + 1
    assert heights["controlnet_down_blocks.9-11"] == heights["down_blocks.3"]
    assert heights["controlnet_mid_block"] == heights["mid_block"]
    assert not any(" out (" in line for line in lines)


@pytest.mark.parametrize(("width", "unicode"), [(20, True), (80, False), (120, True)])
def test_names_cannot_act_and_colors_change_no_character(width: int, unicode: bool) -> None:
    """No name can move the cursor, break a line or be wider than the terminal; colors are nothing but ANSI sequences, each closed."""
    outline = outline_of(renamed("down_blocks", ".resnets", "UNet2DConditionModel"))
    text = drawn_text(outline, level="layer", width=width, unicode=unicode, color=False)
    colored = drawn_text(outline, level="layer", width=width, unicode=unicode, color=True)

    assert all(char.isprintable() or char == "\n" for char in text)
    assert text.isascii() or unicode
    assert max(map(cells, text.split("\n"))) <= width
    assert r"\x1b[31m" in re.sub(r"\s", "", text)
    assert colored != text
    assert re.sub(r"\x1b\[[\d;]*m", "", colored) == text
    assert all(not line.rpartition("\x1b[0m")[2].count("\x1b") for line in colored.split("\n"))


@pytest.mark.parametrize("unicode", [True, False])
def test_golden(unicode: bool, golden: Callable[[str, str], None]) -> None:
    """The picture of SD 1.5 at 80 columns is the one that was looked at."""
    text = drawn_text(outlined("sd15"), level="stage", width=80, unicode=unicode, color=False)
    golden(f"draw/sd15-80{'' if unicode else '-ascii'}.txt", text)


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
    """Return what each line is; a line that is not of the grammar fails."""
    found = []
    for line in text.removesuffix("\n").split("\n"):
        matches = [match for rule in grammar if (match := re.fullmatch(rule, line.strip()))]
        assert matches, line
        found.append({key: value for key, value in matches[0].groupdict().items() if value is not None})
    return found


def flowchart(text: str) -> list[dict[str, str]]:
    """Return the lines of a flowchart after its title."""
    head, body = text.split("\n---\nflowchart TB\n")

    assert re.fullmatch(r'---\ntitle: "(?:[^"\\\n]|\\.)*"\nconfig:\n  flowchart:\n    wrappingWidth: 600', head)
    return parsed(body, _MERMAID)


def read(label: str) -> str:
    """Return what Mermaid shows of a label."""
    return re.sub(r"#(\d+);", lambda found: chr(int(found[1])), label[1:-1].replace("<br/>", "\n"))


def wanted_edges(outline: Outline) -> Counter[tuple[str, str]]:
    """Count the edges of skips between boxes: one for each pair of modules that a skip joins."""
    pairs = {(skip.index, skip.source, skip.target): skip for skip in outline.trace.skips}
    return Counter((outline.box_of(skip.source_stage).name, outline.box_of(skip.target_stage).name) for skip in pairs.values())


@pytest.mark.parametrize(("name", "level"), [case[:2] for case in CASES])
def test_a_flowchart_is_well_formed_and_has_the_record(name: str, level: Level) -> None:
    """Each line is of the grammar, what is joined is declared once, each skip is one edge between its boxes, sums and marks add up.

    At the level of layers a skip's edge ends at the layer that has its sum. GitHub draws at most 500 edges and 50,000 characters.
    """
    text, outline = mermaid(outlined(name), level=level), outlined(name)
    lines = flowchart(text)
    labels = {line["node"]: read(line["label"]) for line in lines if "node" in line}
    titles = {line["group"]: read(line["title"]) for line in lines if re.fullmatch(r"b\d+", line.get("group", ""))}
    names = {node: label.split("\n")[0].split(": ")[0] for node, label in {**labels, **titles}.items()}
    skips = [line for line in lines if "source" in line]
    entered = Counter(line["target"] for line in skips)

    assert len(labels) == sum("node" in line for line in lines)
    assert {end for line in skips for end in (line["source"], line["target"])} <= set(labels)
    assert sum("group" in line for line in lines) == sum("end" in line for line in lines)
    assert Counter(tuple(names[line[end].partition("l")[0]] for end in ("source", "target")) for line in skips) == wanted_edges(outline)
    assert sums_in("\n".join(labels.values())) == sums_of(drawn(name))
    assert marks_in("\n".join(labels.values())) == marks_of(drawn(name))
    assert {box.name for box in outline.boxes} <= set(names.values())
    assert sum(len(read(line["channels"]).split(", ")) for line in skips if "channels" in line) == len(skips)
    if level == "layer":
        assert {node: label.count(" + ") for node, label in labels.items() if " + " in label} == dict(entered)
    assert len(re.findall(r"---|-->|-\.->", text.partition("flowchart TB")[2])) < (280 if name != "stable-cascade-prior" else 500)
    assert len(text) < 50_000


@pytest.mark.parametrize(("name", "level"), [case[:2] for case in CASES])
def test_a_digraph_is_well_formed_and_has_the_record(name: str, level: Level) -> None:
    """Each line is of the grammar, each label is XML, each skip is one edge from its row to its row, sums and marks add up."""
    text, outline = dot(outlined(name), level=level), outlined(name)
    lines = parsed(text, _DOT)
    tables = {line["node"]: ET.fromstring(line["table"]) for line in lines if "node" in line}
    names = {node: table.findtext(".//B") or "" for node, table in tables.items()}
    ports = {(node, cell.get("PORT")): cell.text or "" for node, table in tables.items() for cell in table.iter("TD") if cell.get("PORT")}
    skips = [line for line in lines if "source" in line]
    shown = "\n".join("".join(cell.itertext()) for table in tables.values() for cell in table.iter("TD"))

    assert text.count("{") == text.count("}")
    assert Counter((names[line["source"]], names[line["target"]]) for line in skips) == wanted_edges(outline)
    assert {(line["source"], line["made"]) for line in skips} | {(line["target"], line["taken"]) for line in skips} == set(ports)
    for line in skips:
        channels = ports[line["source"], line["made"]].rpartition("skip ")[2]
        assert f" + {channels} → " in ports[line["target"], line["taken"]]
    assert sums_in(shown) == sums_of(drawn(name))
    assert marks_in(shown) == marks_of(drawn(name))
    assert set(names.values()) == {box.name for box in outline.boxes}


@pytest.mark.parametrize("level", LEVELS)
def test_names_cannot_break_the_syntax(level: Level) -> None:
    """Quotes, brackets, arrows, directives, escape sequences and entities in names are text in both languages."""
    outline = outline_of(renamed("down_blocks", ".resnets", "UNet2DConditionModel"))
    shown = outline.on("left")[1].name
    chart = flowchart(mermaid(outline, level=level))
    graph = parsed(dot(outline, level=level), _DOT)

    assert shown.startswith(EVIL.partition("\x1b")[0])
    assert shown in "\n".join(read(line[key]) for line in chart for key in ("label", "title") if key in line)
    assert shown in [ET.fromstring(line["table"]).findtext(".//B") for line in graph if "table" in line]
    assert sum("source" in line for line in chart) == sum("source" in line for line in graph) == len(outline.trace.skips)
    assert unescape("".join(line.get("caption", "") for line in graph)).isprintable()
