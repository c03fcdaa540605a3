"""The HTML page and what a notebook shows, as documents: whole, self-contained, safe, with the record's own numbers. No browser runs."""

from __future__ import annotations

import json
import re
from base64 import b64encode
from functools import cache
from hashlib import sha256
from html.parser import HTMLParser
from itertools import pairwise
from xml.etree import ElementTree as ET

import pytest

from tests.drawn import EVIL, drawn, renamed
from tests.tiny import traced
from unetinspect import Trace
from unetinspect.drawing.outline import outline_of
from unetinspect.drawing.page import page
from unetinspect.drawing.page.record import page_record
from unetinspect.record import Module
from unetinspect.units import format_bytes, format_count, format_shape, format_si

MODELS = ("conditioned", "no-layers")


class Reader(HTMLParser):
    """Reads a page into elements; every element that is opened must be closed, in turn."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.builder, self.opened = ET.TreeBuilder(), ["page"]
        self.builder.start("page", {})
        self.feed(text)
        self.close()
        self.handle_endtag("page")
        self.root = self.builder.close()
        assert self.opened == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert len(dict(attrs)) == len(attrs), f"an attribute twice in {tag}"
        self.builder.start(tag, {name: value or "" for name, value in attrs})
        self.opened.append(tag)
        if tag in ("meta", "link", "input"):
            self.handle_endtag(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.opened.pop() == tag
        self.builder.end(tag)

    def handle_data(self, data: str) -> None:
        self.builder.data(data)


def words(element: ET.Element) -> str:
    """Return the text in an element."""
    return "".join(element.itertext())


@cache
def written(name: str) -> str:
    """Return the page of a model."""
    return page(outline_of(traced(name)))


@cache
def read(name: str) -> ET.Element:
    """Return the elements of the page of a model."""
    return Reader(written(name)).root


def data_of(root: ET.Element) -> str:
    """Return the JSON in a page."""
    return "".join(words(one) for one in root.iter("script") if one.get("type") == "application/json")


def rows_of(table: ET.Element) -> list[list[ET.Element]]:
    """Return the cells of each row of a table."""
    return [list(row) for row in table.findall("./tbody/tr") if row.get("class") != "empty"]


@pytest.mark.parametrize("name", MODELS)
def test_a_page_needs_nothing_from_elsewhere_and_its_own_scripts_alone_may_run(name: str) -> None:
    """The same record gives the same bytes; addresses are places in the page or data; the policy names the hashes of its scripts."""
    elements = list(read(name).iter())
    addresses = [value for one in elements for key, value in one.items() if key in ("src", "href", "xlink:href", "action")]
    (policy,) = (one.get("content", "") for one in elements if one.tag == "meta" and "http-equiv" in one.attrib)
    rules = {rule.split()[0]: rule.split()[1:] for rule in policy.split(";")}
    scripts = [words(one) for one in elements if one.tag == "script" and one.get("type") != "application/json"]

    assert page(outline_of(Trace.from_json(traced(name).to_json()))) == written(name)
    assert addresses
    assert all(address.startswith(("#", "data:image/svg+xml,")) for address in addresses)
    assert not re.search(r"url\(|@import", written(name))
    assert {"iframe", "object", "embed", "base", "form"}.isdisjoint(one.tag for one in elements)
    assert rules["default-src"] == ["'none'"]
    assert rules["script-src"] == [f"'sha256-{b64encode(sha256(script.encode()).digest()).decode()}'" for script in scripts]
    assert not [key for one in elements for key in one.attrib if key.startswith("on")]


@pytest.mark.parametrize("name", MODELS)
def test_a_page_has_landmarks_headings_and_tables_with_headers_and_ids_that_are_unique(name: str) -> None:
    """One h1, no level of headings is left out, landmarks are there once, columns and rows have headers, references have targets."""
    elements = list(read(name).iter())
    tags = [one.tag for one in elements]
    levels = [int(tag[1]) for tag in tags if re.fullmatch("h[1-6]", tag)]
    ids = [one.attrib["id"] for one in elements if "id" in one.attrib]
    named = {reference for one in elements for reference in one.get("aria-labelledby", "").split()}

    assert (levels[0], levels.count(1)) == (1, 1)
    assert all(after - before <= 1 for before, after in pairwise(levels))
    assert [tags.count(tag) for tag in ("header", "main", "aside", "nav")] == [1, 1, 1, 1]
    assert [one.get("lang") for one in elements if one.tag == "html"] == ["en"]
    assert len(set(ids)) == len(ids)
    assert named | {one.attrib["href"][1:] for one in elements if one.tag == "a"} <= set(ids)
    for table in (one for one in elements if one.tag == "table"):
        heads = table.findall("./thead//th")
        assert words(table.findall("caption")[0])
        assert all(head.get("scope") == "col" and words(head) for head in heads)
        assert all(len(row) == len(heads) and row[0].get("scope") == "row" for row in rows_of(table))


@pytest.mark.parametrize("name", MODELS)
def test_the_tables_have_every_row_of_the_record_with_its_numbers(name: str) -> None:
    """Each stage, skip, attention layer and module is there without a script; what is sorted carries the record's integer."""
    trace = traced(name)
    tables = {table.attrib["data-pick"]: rows_of(table) for table in read(name).iter("table")}
    stages, skips, layers, modules = (
        [[words(cell) for cell in row] for row in tables[pick]] for pick in ("stage", "skip", "attn", "module")
    )
    values = [[int(cell.attrib["data-value"] or -1) for cell in row[4:7]] for row in tables["module"]]
    costs = [(module.params, module.macs, module.activation_bytes) for module in trace.modules[1:]]

    assert [row[0] for row in stages] == [stage.name for stage in trace.stages]
    assert [[row[0], *row[2:4]] for row in skips] == [[skip.target, str(skip.index), format_shape(skip.shape)] for skip in trace.skips]
    assert [[row[0], row[1], row[8]] for row in layers] == [[layer.path, layer.kind, format_si(layer.macs)] for layer in trace.attentions]
    assert [row[8].attrib["data-value"] for row in tables["attn"]] == [str(layer.macs) for layer in trace.attentions]
    assert [[row[0], *row[2:8]] for row in modules] == [
        [
            *(module.path, shape_text(module, module.in_shape), shape_text(module, module.out_shape)),
            *(format_count(module.params) if module.params else "", format_si(module.macs) if module.macs else ""),
            *(format_bytes(module.activation_bytes) if module.activation_bytes else "", str(module.calls or "")),
        ]
        for module in trace.modules[1:]
    ]
    assert values == [[-1 if cost is None else cost for cost in row] for row in costs]


def shape_text(module: Module, shape: tuple[int, ...] | None) -> str:
    """Write a shape as a row of a module does."""
    ran = module.calls or module.class_name == "ModuleList"
    return "not run" if not ran else format_shape(shape) if shape else ""


@pytest.mark.parametrize("name", MODELS)
def test_the_data_in_the_page_are_those_of_the_record(name: str) -> None:
    """The JSON in the page reads back as what was put in, and costs and channels in it add up to the record's."""
    outline, text = outline_of(traced(name)), data_of(read(name))
    data = json.loads(text)

    assert data == json.loads(json.dumps(page_record(outline)))
    assert not set("<>&") & set(text)
    assert sum(box["params"][0] for box in data["boxes"]) == sum(stage.params for stage in outline.trace.stages)
    assert sum(box["macs"][0] for box in data["boxes"]) == outline.trace.totals.macs
    assert [skip["hidden"] + skip["skip"] for skip in data["skips"]] == [skip.concat_channels for skip in outline.trace.skips]
    assert sorted(place for box in data["boxes"] for place in box["taken"]) == list(range(len(outline.trace.skips)))
    assert all(data["boxes"][place]["name"] for place in range(len(outline.boxes)))


def test_names_from_configs_never_become_markup() -> None:
    """A page of a model with evil names has the elements and attributes of the same page with plain names, and can be written as UTF-8."""
    names = ("mid_block", "UNet2DConditionModel", "attn1")
    plain = traced("conditioned").to_json()
    for name in names:
        plain = plain.replace(name, "plain")
    pages = [page(outline_of(record)) for record in (Trace.from_json(plain), renamed(*names))]
    shapes = [[(one.tag, *one.attrib) for one in Reader(text).root.iter()] for text in pages]

    assert shapes[0] == shapes[1]
    assert "<i>" not in pages[1].partition("</style>")[2]
    assert not {"\u2028", "\x1b"} & set(pages[1])
    assert EVIL.partition("\x1b")[0] in words(Reader(pages[1]).root)
    pages[1].encode()


def test_a_page_stays_small() -> None:
    """Beside the picture, script and styles, a module takes less than 400 bytes: one of thousands of modules is below 1.2 MB."""
    assert (len(written("sd15")) - len(written("no-layers"))) / len(traced("sd15").modules) < 400


@pytest.mark.parametrize("name", ["conditioned", "plain", "ControlNetModel"])
def test_a_notebook_shows_the_picture_and_every_row(name: str) -> None:
    """Well-formed HTML without scripts or links: an SVG, and a row for each stage, skip and attention layer."""
    record = drawn(name)
    elements = list(Reader(record._repr_html_()).root.iter())
    tags = [one.tag for one in elements]
    tables = [rows for rows in (record.stages, record.skips, record.attentions) if rows]

    assert [tags.count(tag) for tag in ("svg", "table", "details", "script")] == [1, len(tables), len(tables), 0]
    assert tags.count("tr") == sum(len(rows) + 1 for rows in tables)
    assert not any({"href", "src"} & set(one.attrib) for one in elements)
