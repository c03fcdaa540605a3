"""The HTML page and what a notebook shows, as documents: whole, self-contained, safe, with the record's own numbers. No browser runs."""

from __future__ import annotations

import json
import re
from base64 import b64encode
from dataclasses import dataclass, field
from functools import cache
from hashlib import sha256
from html.parser import HTMLParser
from itertools import pairwise

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
EMPTY = {"meta", "link", "input"}


@dataclass
class Element:
    """An element of a parsed page."""

    tag: str
    attributes: dict[str, str | None]
    children: list[Element | str] = field(default_factory=list)

    def every(self) -> list[Element]:
        """Return all elements below it, in the document's order."""
        below = [child for child in self.children if isinstance(child, Element)]
        return [found for child in below for found in (child, *child.every())]

    def all(self, *tags: str) -> list[Element]:
        """Return the elements of these kinds below it."""
        return [one for one in self.every() if one.tag in tags]

    @property
    def text(self) -> str:
        return "".join(child if isinstance(child, str) else child.text for child in self.children)


class Reader(HTMLParser):
    """Reads a page into elements; every element that is opened must be closed, in turn."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.root = Element("", {})
        self.opened = [self.root]
        self.feed(text)
        self.close()
        assert self.opened == [self.root]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert len(dict(attrs)) == len(attrs), f"an attribute twice in {tag}"
        self.opened[-1].children.append(element := Element(tag, dict(attrs)))
        if tag not in EMPTY:
            self.opened.append(element)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.opened[-1].children.append(Element(tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.opened.pop().tag == tag

    def handle_data(self, data: str) -> None:
        self.opened[-1].children.append(data)


@cache
def written(name: str) -> str:
    """Return the page of a model."""
    return page(outline_of(traced(name)))


@cache
def read(name: str) -> Element:
    """Return the elements of the page of a model."""
    return Reader(written(name)).root


def rows_of(root: Element, pick: str) -> list[list[Element]]:
    """Return the cells of each row of one of the tables."""
    (table,) = (table for table in root.all("table") if table.attributes["data-pick"] == pick)
    rows = [row for row in table.all("tbody")[0].all("tr") if row.attributes.get("class") != "empty"]
    return [row.all("th", "td") for row in rows]


@pytest.mark.parametrize("name", MODELS)
def test_a_page_needs_nothing_from_elsewhere_and_its_own_scripts_alone_may_run(name: str) -> None:
    """The same record gives the same bytes; addresses are places in the page or data; the policy names the hashes of its scripts."""
    elements = read(name).every()
    addresses = [value for one in elements for key, value in one.attributes.items() if key in ("src", "href", "xlink:href", "action")]
    (policy,) = (one.attributes["content"] or "" for one in elements if one.tag == "meta" and "http-equiv" in one.attributes)
    rules = {rule.split()[0]: rule.split()[1:] for rule in policy.split(";")}
    scripts = [one.text for one in elements if one.tag == "script" and one.attributes.get("type") != "application/json"]

    assert page(outline_of(Trace.from_json(traced(name).to_json()))) == written(name)
    assert addresses
    assert all(address and address.startswith(("#", "data:image/svg+xml,")) for address in addresses)
    assert not re.search(r"url\(|@import", written(name))
    assert {"iframe", "object", "embed", "base", "form"}.isdisjoint(one.tag for one in elements)
    assert rules["default-src"] == ["'none'"]
    assert rules["script-src"] == [f"'sha256-{b64encode(sha256(script.encode()).digest()).decode()}'" for script in scripts]
    assert not [key for one in elements for key in one.attributes if key.startswith("on")]


@pytest.mark.parametrize("name", MODELS)
def test_a_page_has_landmarks_headings_and_tables_with_headers_and_ids_that_are_unique(name: str) -> None:
    """One h1, no level of headings is left out, landmarks are there once, columns and rows have headers, references have targets."""
    root = read(name)
    elements = root.every()
    levels = [int(one.tag[1]) for one in elements if re.fullmatch("h[1-6]", one.tag)]
    ids = [one.attributes["id"] for one in elements if "id" in one.attributes]
    named = {reference for one in elements for reference in (one.attributes.get("aria-labelledby") or "").split()}

    assert (levels[0], levels.count(1)) == (1, 1)
    assert all(after - before <= 1 for before, after in pairwise(levels))
    assert [len(root.all(tag)) for tag in ("header", "main", "aside", "nav")] == [1, 1, 1, 1]
    assert root.all("html")[0].attributes["lang"] == "en"
    assert len(set(ids)) == len(ids)
    assert named | {(one.attributes["href"] or "")[1:] for one in root.all("a")} <= set(ids)
    for table in root.all("table"):
        heads = table.all("thead")[0].all("th")
        assert table.all("caption")[0].text
        assert all(head.attributes["scope"] == "col" and head.text for head in heads)
        for row in table.all("tbody")[0].all("tr"):
            cells = row.all("th", "td")
            assert row.attributes.get("class") == "empty" or (len(cells) == len(heads) and cells[0].attributes["scope"] == "row")


@pytest.mark.parametrize("name", MODELS)
def test_the_tables_have_every_row_of_the_record_with_its_numbers(name: str) -> None:
    """Each stage, skip, attention layer and module is there without a script; what is sorted carries the record's integer."""
    root, trace = read(name), traced(name)
    modules = [[cell.text for cell in row] for row in rows_of(root, "module")]
    values = [[int(cell.attributes["data-value"] or -1) for cell in row[4:7]] for row in rows_of(root, "module")]
    layers = [[row[0].text, row[1].text, row[8].text, row[8].attributes["data-value"]] for row in rows_of(root, "attn")]
    costs = [(module.params, module.macs, module.activation_bytes) for module in trace.modules[1:]]

    assert [row[0].text for row in rows_of(root, "stage")] == [stage.name for stage in trace.stages]
    assert [[row[0].text, row[2].text] for row in rows_of(root, "skip")] == [
        [skip.target, format_shape(skip.shape)] for skip in trace.skips
    ]
    assert layers == [[layer.path, layer.kind, format_si(layer.macs), str(layer.macs)] for layer in trace.attentions]
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
    outline = outline_of(traced(name))
    (script,) = (one for one in read(name).all("script") if one.attributes.get("type") == "application/json")
    data = json.loads(script.text)

    assert data == json.loads(json.dumps(page_record(outline)))
    assert not set("<>&") & set(script.text)
    assert sum(box["params"][0] for box in data["boxes"]) == sum(stage.params for stage in outline.trace.stages)
    assert sum(box["macs"][0] for box in data["boxes"]) == outline.trace.totals.macs
    assert [skip["hidden"] + skip["skip"] for skip in data["skips"]] == [skip.concat_channels for skip in outline.trace.skips]
    assert sorted(place for box in data["boxes"] for place in box["taken"]) == list(range(len(outline.trace.skips)))
    assert all(data["boxes"][place]["name"] for place in range(len(outline.boxes)))


def test_names_from_configs_never_become_markup() -> None:
    """A page of a model with evil names has the elements and attributes of the same page with plain names, and can be written as UTF-8."""
    words = ("mid_block", "UNet2DConditionModel", "attn1")
    plain = traced("conditioned").to_json()
    for word in words:
        plain = plain.replace(word, "plain")
    pages = [page(outline_of(record)) for record in (Trace.from_json(plain), renamed(*words))]
    shapes = [[(one.tag, *one.attributes) for one in Reader(text).root.every()] for text in pages]

    assert shapes[0] == shapes[1]
    assert "<i>" not in pages[1].partition("</style>")[2]
    assert not {"\u2028", "\x1b"} & set(pages[1])
    assert EVIL.partition("\x1b")[0] in Reader(pages[1]).root.all("main")[0].text
    pages[1].encode()


def test_a_page_stays_small() -> None:
    """Beside the picture, script and styles, a module takes less than 400 bytes: one of thousands of modules is below 1.2 MB."""
    assert (len(written("sd15")) - len(written("no-layers"))) / len(traced("sd15").modules) < 400


@pytest.mark.parametrize("name", ["conditioned", "plain", "ControlNetModel"])
def test_a_notebook_shows_the_picture_and_every_row(name: str) -> None:
    """Well-formed HTML without scripts or links: an SVG, and a row for each stage, skip and attention layer."""
    record = drawn(name)
    root = Reader(record._repr_html_()).root
    tables = [rows for rows in (record.stages, record.skips, record.attentions) if rows]

    assert [len(root.all(tag)) for tag in ("svg", "table", "details")] == [1, len(tables), len(tables)]
    assert len(root.all("tr")) == sum(len(rows) + 1 for rows in tables)
    assert root.all("script") == []
    assert not any("href" in one.attributes or "src" in one.attributes for one in root.every())
