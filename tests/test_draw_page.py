"""The HTML page as a document: whole, self-contained, safe, and the record's own numbers in it. No browser runs here."""

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

from tests.tiny import traced
from unetinspect import Trace
from unetinspect.drawing.outline import outline_of
from unetinspect.drawing.page import page
from unetinspect.drawing.page.record import page_record
from unetinspect.record import Module
from unetinspect.units import format_bytes, format_count, format_shape, format_si

MODELS = ("conditioned", "plain", "no-layers")
EMPTY = {"meta", "link", "input"}
EVIL = """</script></style></title><img src=x onerror="evil=1"><!--'&amp;]]>"""


@dataclass
class Element:
    """An element of a parsed page."""

    tag: str
    attributes: dict[str, str | None]
    children: list[Element | str] = field(default_factory=list)

    def all(self, tag: str) -> list[Element]:
        """Return the elements of this kind below it, in the document's order."""
        below = [child for child in self.children if isinstance(child, Element)]
        return [found for child in below for found in ([child] if child.tag == tag else []) + child.all(tag)]

    @property
    def text(self) -> str:
        return "".join(child if isinstance(child, str) else child.text for child in self.children)


class Reader(HTMLParser):
    """Reads a page into elements, and holds that every element that is opened is closed, in turn."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.root = Element("", {})
        self.opened = [self.root]
        self.shape: list[tuple[str, tuple[str, ...]]] = []
        self.feed(text)
        self.close()
        assert self.opened == [self.root]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        names = [name for name, _ in attrs]
        assert len(set(names)) == len(names), f"an attribute twice in {tag}"
        element = Element(tag, dict(attrs))
        self.shape.append((tag, tuple(names)))
        self.opened[-1].children.append(element)
        if tag not in EMPTY:
            self.opened.append(element)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.shape.append((tag, tuple(name for name, _ in attrs)))
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


def every(root: Element) -> list[Element]:
    """Return all elements below one, in the document's order."""
    below = [child for child in root.children if isinstance(child, Element)]
    return [found for child in below for found in (child, *every(child))]


def rows_of(root: Element, pick: str) -> list[list[Element]]:
    """Return the cells of each row of one of the tables."""
    (table,) = (table for table in root.all("table") if table.attributes["data-pick"] == pick)
    (body,) = table.all("tbody")
    return [
        [cell for cell in row.children if isinstance(cell, Element)] for row in body.all("tr") if row.attributes.get("class") != "empty"
    ]


@pytest.mark.parametrize("name", MODELS)
def test_the_same_record_gives_the_same_bytes(name: str) -> None:
    """A record that was written and read again gives the page that it gave at first."""
    again = Trace.from_json(traced(name).to_json())

    assert page(outline_of(again)) == written(name)


@pytest.mark.parametrize("name", MODELS)
def test_nothing_comes_from_elsewhere(name: str) -> None:
    """No attribute and no style names an address but places in the page itself and data that it holds."""
    elements = every(read(name))
    addresses = [
        value for one in elements for key, value in one.attributes.items() if key in ("src", "href", "xlink:href", "action", "data")
    ]

    assert addresses
    assert all(address and address.startswith(("#", "data:image/svg+xml,")) for address in addresses)
    assert "url(" not in written(name)
    assert "@import" not in written(name)
    assert {"iframe", "object", "embed", "base", "form"}.isdisjoint(one.tag for one in elements)


@pytest.mark.parametrize("name", MODELS)
def test_ids_are_unique_and_what_refers_to_one_finds_it(name: str) -> None:
    """No id stands twice; every reference to one, and every link inside the page, has its target."""
    elements = every(read(name))
    ids = [one.attributes["id"] for one in elements if "id" in one.attributes]
    named = [one.attributes.get("aria-labelledby") or "" for one in elements]
    links = [(one.attributes["href"] or "")[1:] for one in elements if one.tag == "a"]

    assert len(set(ids)) == len(ids)
    assert {reference for text in named for reference in text.split()} | set(links) <= set(ids)


@pytest.mark.parametrize("name", MODELS)
def test_the_page_has_landmarks_headings_and_tables_with_captions_and_headers(name: str) -> None:
    """One h1, no level of headings is left out, header and main and aside stand once, and every column and row has its header."""
    root = read(name)
    levels = [int(one.tag[1]) for one in every(root) if re.fullmatch("h[1-6]", one.tag)]

    assert levels.count(1) == 1
    assert levels[0] == 1
    assert all(after - before <= 1 for before, after in pairwise(levels))
    assert [len(root.all(tag)) for tag in ("header", "main", "aside", "nav")] == [1, 1, 1, 1]
    assert root.all("html")[0].attributes["lang"] == "en"
    for table in root.all("table"):
        (caption,), heads = table.all("caption"), table.all("thead")[0].all("th")
        assert caption.text
        assert all(head.attributes["scope"] == "col" and head.text for head in heads)
        for row in table.all("tbody")[0].all("tr"):
            cells = [cell for cell in row.children if isinstance(cell, Element)]
            assert row.attributes.get("class") == "empty" or (len(cells) == len(heads) and cells[0].attributes["scope"] == "row")


@pytest.mark.parametrize("name", MODELS)
def test_the_tables_hold_every_row_of_the_record_with_its_numbers(name: str) -> None:
    """Without any script, each stage, skip, attention layer and module stands there; what is sorted carries the record's integer."""
    root, trace = read(name), traced(name)
    modules = [[cell.text for cell in row] for row in rows_of(root, "module")]
    values = [[int(cell.attributes["data-value"] or -1) for cell in row[4:7]] for row in rows_of(root, "module")]
    layers = [[row[0].text, row[1].text, row[8].text, row[8].attributes["data-value"]] for row in rows_of(root, "attn")]

    assert [row[0].text for row in rows_of(root, "stage")] == [stage.name for stage in trace.stages]
    assert [[row[0].text, row[2].text] for row in rows_of(root, "skip")] == [
        [skip.target, format_shape(skip.shape)] for skip in trace.skips
    ]
    assert layers == [[layer.path, layer.kind, format_si(layer.macs), str(layer.macs)] for layer in trace.attentions]
    assert [[row[0], row[2], row[3], row[4], row[5], row[6], row[7]] for row in modules] == [
        [
            module.path,
            *(_shape(module, shape) for shape in (module.in_shape, module.out_shape)),
            format_count(module.params) if module.params else "",
            format_si(module.macs) if module.macs else "",
            format_bytes(module.activation_bytes) if module.activation_bytes else "",
            str(module.calls or ""),
        ]
        for module in trace.modules[1:]
    ]
    costs = [(module.params, module.macs, module.activation_bytes) for module in trace.modules[1:]]
    assert values == [[-1 if cost is None else cost for cost in row] for row in costs]


def _shape(module: Module, shape: tuple[int, ...] | None) -> str:
    ran = module.calls or module.class_name == "ModuleList"
    return "not run" if not ran else format_shape(shape) if shape else ""


@pytest.mark.parametrize("name", MODELS)
def test_the_page_lets_its_own_scripts_run_and_no_other(name: str) -> None:
    """The policy allows nothing but styles, data images, and the scripts whose hashes it names: those that stand in the page."""
    root = read(name)
    (policy,) = (one.attributes["content"] or "" for one in root.all("meta") if "http-equiv" in one.attributes)
    rules = {rule.split()[0]: rule.split()[1:] for rule in policy.split(";")}
    scripts = [one.text for one in root.all("script") if one.attributes.get("type") != "application/json"]

    assert rules["default-src"] == ["'none'"]
    assert rules["script-src"] == [f"'sha256-{b64encode(sha256(script.encode()).digest()).decode()}'" for script in scripts]
    assert not [key for one in every(root) for key in one.attributes if key.startswith("on")]


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
    """A page of a model whose names are markup has exactly the elements and attributes of the same page with plain names."""
    text = traced("conditioned").to_json()
    plain = text.replace("mid_block", "middle").replace('"UNet2DConditionModel"', '"plain"').replace("attn1", "first")
    wicked = text
    for word in ("mid_block", "UNet2DConditionModel", "attn1"):
        wicked = wicked.replace(word, json.dumps(EVIL)[1:-1])
    pages = [page(outline_of(Trace.from_json(each))) for each in (plain, wicked)]

    assert "<img" not in pages[1]
    assert Reader(pages[1]).shape == Reader(pages[0]).shape
    assert EVIL in Reader(pages[1]).root.all("main")[0].text


def test_what_utf_8_and_terminals_cannot_hold_is_written_out() -> None:
    """Halves of surrogate pairs, line separators and control characters in a name leave a page that can be written as UTF-8."""
    record = traced("conditioned").to_json()
    text = page(outline_of(Trace.from_json(record.replace('"name": "', '"name": "\\u2028\\u0007', 1))))

    assert not {"\u2028", "\x07"} & set(text)
    assert "\\u2028\\x07" in Reader(text).root.all("h1")[0].text
    text.encode()


def test_a_page_stays_small() -> None:
    """Beside the picture, script and styles, a module takes less than 400 bytes: one of thousands of modules is below 1.2 MB."""
    trace = traced("sd15")
    tables = len(written("sd15")) - len(written("no-layers"))

    assert tables / len(trace.modules) < 400
