"""The SVG of a U: all of the record's numbers as text, one document by itself, the same bytes each time, readable by everybody."""

from __future__ import annotations

import re
from collections import Counter
from functools import cache
from xml.etree import ElementTree as ET

import msgspec
import pytest

from tests.drawn import KNOWN
from tests.test_draw_layout import ALL, LAWS, LEVELS, outlined
from tests.tiny import condition, traced, traced_once
from unetinspect import Trace
from unetinspect.drawing.forms import Level
from unetinspect.drawing.outline import Outline, outline_of
from unetinspect.drawing.place import place
from unetinspect.drawing.svg import svg
from unetinspect.drawing.svg.style import colours, style_sheet
from unetinspect.record import Shape

NS = "{http://www.w3.org/2000/svg}"
# One of each class, and what is odd: numbers in a picture are read from these.
READ = (
    *(*KNOWN, "conditioned", "plain-one-block", "text", "controlnet", "t2i-adapter", "controlnet-xs", "unet1d-audio", "uvit"),
    *("cascade-decoder", "cascade-prior", "motion", "unet3d", "no-mid-block", "dreamlite"),
)
EVIL = "<script>alert(1)</script>&\"'\x00\x1b[31m\ud800\u202e]]>" + "long-" * 60


def parsed(text: str) -> ET.Element:
    """Parse a document as XML."""
    return ET.fromstring(text)


def groups(root: ET.Element, style: str) -> list[ET.Element]:
    """Return the groups of a class."""
    return [one for one in root.iter(f"{NS}g") if style in one.get("class", "").split()]


def texts(element: ET.Element) -> list[str]:
    """Return what is written in an element, tooltips aside."""
    return ["".join(one.itertext()) for one in element.iter(f"{NS}text")]


def shape_text(shape: Shape | None) -> str:
    """Write a shape as the picture does."""
    return "-" if shape is None else str(shape)


@pytest.fixture(params=[name for name in READ if name in ALL])
def name(request: pytest.FixtureRequest) -> str:
    """The names of many classes."""
    return str(request.param)


@pytest.fixture
def outline(name: str) -> Outline:
    """Outlines of many classes."""
    return outlined(name)


@cache
def drawn(name: str, level: Level) -> ET.Element:
    """Draw one of these and parse it, once."""
    return parsed(svg(outlined(name), level=level))


def test_the_names_that_are_read_are_there() -> None:
    """Most of the names above are kinds that exist: a renamed one is no test that is silently gone."""
    assert [name for name in READ if name not in ALL] == []


@pytest.mark.parametrize("level", LEVELS)
def test_every_box_and_every_shape_is_written(name: str, outline: Outline, level: Level) -> None:
    """Each stage stands in one group with its name and class; what goes in and out is written in it or on an arrow."""
    root = drawn(name, level)
    found = groups(root, "ui-stage")
    assert [one.get("data-box") for one in found] == [box.name for box in outline.boxes]
    assert [name for one in found for name in one.get("data-stages", "").split(",")] == [stage.name for stage in outline.trace.stages]
    everything = "\n".join(texts(root))
    for group, box in zip(found, outline.boxes, strict=True):
        assert box.stages[0].role in group.get("class", "").replace("ui-", "").split()
        assert [box.name, box.class_name] == texts(group)[:2]
        assert all(shape_text(shape) in everything for shape in (box.in_shape, box.out_shape))
    assert shape_text(outline.trace.output.shape) in everything or len(outline.trace.outputs) > 1


@pytest.mark.parametrize("level", LEVELS)
def test_the_sums_at_the_up_resnets_add_up(name: str, outline: Outline, level: Level) -> None:
    """As often as in the record, hidden + skip → out is written in the box that takes the skip; and each skip has its channels."""
    root = drawn(name, level)
    written = Counter(
        (group.get("data-box"), *map(int, re.findall(r"\d+", text)))
        for group in groups(root, "ui-stage")
        for text in texts(group)
        if re.fullmatch(r"\d+ \+ \d+ → \d+", text)
    )
    skips = outline.trace.skips
    assert written == Counter(
        (outline.box_of(skip.target_stage).name, skip.hidden_channels, skip.concat_channels - skip.hidden_channels, skip.out_channels)
        for skip in skips
    )
    curves = groups(root, "ui-skip")
    assert [(one.get("data-skip"), one.get("data-source"), one.get("data-target")) for one in curves] == [
        (str(skip.order), skip.source, skip.target) for skip in skips
    ]
    assert [texts(one)[0].split()[0] for one in curves] == [str(skip.shape[1]) for skip in skips]


@pytest.mark.parametrize("level", LEVELS)
def test_the_attention_layers_are_counted_with_their_maps(name: str, outline: Outline, level: Level) -> None:
    """Added up over its badges, each box has as many layers of a kind on maps of a size as the record; one that ran twice is one."""
    root = drawn(name, level)
    written: Counter[tuple[str, str, int, int]] = Counter()
    for group in groups(root, "ui-stage"):
        for text in texts(group):
            found = re.fullmatch(r"(?:(\d+) )?(self|cross|joint|temporal|pooling) (\d+)\N{MULTIPLICATION SIGN}(\d+)", text)
            if found:
                written[group.get("data-box", ""), found[2], int(found[3]), int(found[4])] += int(found[1] or 1)
    layers = {(outline.box_of(one.stage).name, one.kind, *one.map_shape[1:], one.path) for one in outline.trace.attentions}
    assert written == Counter(layer[:4] for layer in layers)


def test_every_layer_has_a_group(name: str, outline: Outline) -> None:
    """With layers, each is in a group with its path, those that share a row with all their paths; without, there is none."""
    root = drawn(name, "layer")
    for group, box in zip(groups(root, "ui-stage"), outline.boxes, strict=True):
        found = groups(group, "ui-layer")
        paths = [path for one in found for path in (one.get("data-paths") or one.get("data-path") or "").split(",")]
        assert sorted(paths) == sorted(layer.module.path for layer in box.layers)
        kinds = {layer.module.path: layer.kind for layer in box.layers}
        assert all(f"ui-{kinds[one.get('data-path', '')]}" in one.get("class", "").split() for one in found)
    assert not groups(drawn(name, "stage"), "ui-layer")


def test_title_caption_and_inputs_are_written() -> None:
    """The title, each total of the caption, and each input with its shape stand in the picture."""
    outline = outlined("sdxl")
    written = "\n".join(texts(parsed(svg(outline))))
    assert outline.title in written
    assert all(line.replace(" -> ", " → ").replace("x", "\N{MULTIPLICATION SIGN}").split(";")[0][:9] in written for line in outline.caption)
    assert all(f"{given.name} {shape_text(given.shape)}" in written for given in outline.trace.run.inputs if given.shape is not None)


@pytest.mark.parametrize("interactive", [False, True])
@pytest.mark.parametrize("level", LEVELS)
def test_the_same_bytes_each_time(level: Level, interactive: bool) -> None:
    """A record that was saved and read again is drawn to the same bytes."""
    record = traced("conditioned")
    again = Trace.from_json(record.to_json())
    first, second = (svg(outline_of(one), level=level, interactive=interactive) for one in (record, again))
    assert first.encode() == second.encode()


@pytest.mark.parametrize("interactive", [False, True])
def test_nothing_comes_from_elsewhere(interactive: bool) -> None:
    """The only address is the name space; no script, image, font or link; colours stand in the style sheet alone."""
    text = svg(outlined("sd15"), level="layer", interactive=interactive)
    assert text.startswith("<svg ")
    assert re.findall(r"https?://[^\"]*", text) == ["http://www.w3.org/2000/svg"]
    assert not re.search(r"<(script|image|foreignObject|use|a)\b|@import|@font-face|url\(|javascript:|\son\w+=", text)
    body = text.split("</style>")[1]
    assert not re.search(r"#[0-9a-f]{3,6}\b|rgb\(|style=|fill=|stroke=", body)


def test_pictures_in_one_page_do_not_clash() -> None:
    """Classes and ids begin with "ui-"; the ids of a picture are its own; every rule of the style sheet is below `.ui-svg`."""
    ids: list[str] = []
    for name in ("sd15", "conditioned"):
        for level in LEVELS:
            root = parsed(svg(outlined(name), level=level))
            own = [one.get("id", "") for one in root.iter() if one.get("id")]
            assert root.get("aria-labelledby", "").split() == own
            ids += own
            classes = {style for one in root.iter() for style in one.get("class", "").split()}
            assert all(style.startswith("ui-") for style in classes)
    assert len(set(ids)) == len(ids) == 8
    assert all(one.startswith("ui-") for one in ids)
    rules = re.findall(r"^([^{}@\n]+)\{", style_sheet(interactive=True), flags=re.MULTILINE)
    assert rules
    assert all(rule.startswith(".ui-svg ") for rule in rules)


def test_a_picture_says_what_it_is() -> None:
    """It is an image with a name and a description; each box, layer and skip has one tooltip."""
    root = parsed(svg(outlined("sd15"), level="layer"))
    assert root.get("role") == "img"
    assert root.findtext(f"{NS}title") == outlined("sd15").title
    assert "12 skips" in root.findtext(f"{NS}desc", "")
    said = [one.findtext(f"{NS}title", "") for style in ("ui-stage", "ui-layer", "ui-skip") for one in groups(root, style)]
    assert all(said)
    assert any("skip 0: down_blocks.3.resnets.1 (2, 1280, 8, 8) → up_blocks.0.resnets.0" in one for one in said)
    assert not [one for one in root.iter() if one.get("tabindex")]


def test_for_a_page_each_thing_can_be_focused() -> None:
    """Interactive, each box, layer and skip is a button with a name, no tooltip stands against it, and skips are wide to hit."""
    root = parsed(svg(outlined("sd15"), level="layer", interactive=True))
    things = [one for style in ("ui-stage", "ui-layer", "ui-skip") for one in groups(root, style)]
    assert things
    assert all(one.get("tabindex") == "0" and one.get("role") == "button" and one.get("aria-label") for one in things)
    assert len(list(root.iter(f"{NS}title"))) == 1
    assert all(next(one.iter(f"{NS}path")).get("class") == "ui-hit" for one in groups(root, "ui-skip"))


@pytest.mark.parametrize("interactive", [False, True])
@pytest.mark.parametrize("level", LEVELS)
def test_names_that_others_wrote_are_harmless(level: Level, interactive: bool) -> None:
    """Markup, control characters, half a surrogate pair and 300 characters in names: the XML is valid, all laws hold, the name is whole."""
    record = traced("conditioned")
    named = msgspec.structs.replace
    stages = tuple(named(stage, class_name=EVIL) if stage.role != "in" else stage for stage in record.stages)
    modules = tuple(named(module, class_name=EVIL) for module in record.modules)
    inputs = tuple(named(given, name=EVIL) for given in record.run.inputs)
    evil = named(
        record, model=named(record.model, name=EVIL), stages=stages, modules=modules, run=named(record.run, inputs=inputs), outputs=()
    )
    outline = outline_of(evil)
    text = svg(outline, level=level, interactive=interactive)
    root = parsed(text.encode().decode())
    assert not list(root.iter("script"))
    assert "\x1b" not in text
    assert "long-" * 60 in root.findtext(f"{NS}title", "")
    assert [said for law in LAWS for said in law(place(outline, level=level))] == []


@pytest.mark.parametrize("level", LEVELS)
def test_records_of_earlier_versions_are_drawn(level: Level) -> None:
    """A record without steps, tensors and costs: the same boxes, skips and layers, no costs, all laws."""
    record = traced("conditioned")
    old = msgspec.structs.replace
    modules = tuple(old(one, step=None, tensors={}, macs=None, macs_by_kind=None) for one in record.modules)
    stages = tuple(old(one, macs=None, macs_by_kind=None, flops=None, activation_bytes=None) for one in record.stages)
    totals = old(record.totals, macs=None, macs_by_kind=None, flops=None, peak_activation_bytes=None)
    outline = outline_of(old(record, modules=modules, stages=stages, totals=totals, outputs=(), ports=()))
    root = parsed(svg(outline, level=level))
    assert "MACs" not in "".join(texts(root))
    assert len(groups(root, "ui-skip")) == len(record.skips)
    assert len(groups(root, "ui-layer")) == (len(groups(parsed(svg(outline_of(record), level=level)), "ui-layer")))
    assert [said for law in LAWS for said in law(place(outline, level=level))] == []


def test_what_a_controlnet_adds_is_said() -> None:
    """With a ControlNet plugged in, each skip that it was added to says "(sum)", and its tensors share one label."""
    record = traced_once(condition(), plug_in=ALL["controlnet"])
    root = parsed(svg(outline_of(record)))
    assert [texts(one)[0] for one in groups(root, "ui-skip")] == [f"{skip.skip_channels} (sum)" for skip in record.skips]
    residuals = [given for given in record.run.inputs if given.name.startswith("down_block_additional_residuals.")]
    assert f"down_block_additional_residuals.0-{len(residuals) - 1}: {len(residuals)} tensors" in texts(root)
    assert [said for law in LAWS for said in law(place(outline_of(record), level="stage"))] == []


def luminance(colour: str) -> float:
    """Return the relative luminance of a colour, as the WCAG defines it."""
    parts = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    """Return the contrast of two colours, from 1 to 21."""
    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def test_contrast_is_what_it_is() -> None:
    """Black on white is 21, a colour on itself 1: the two that WCAG names."""
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    assert contrast("#123456", "#123456") == 1


@pytest.mark.parametrize("dark", [False, True])
def test_text_can_be_read_in_light_and_in_dark(dark: bool) -> None:
    """Every colour of text has 4.5:1 on every ground that it stands on; every line and border 3:1 on the paper."""
    of = colours(dark=dark)
    paper = of[".ui-paper", "fill"]
    grounds = [paper, of[".ui-row", "fill"], *(colour for (name, what), colour in of.items() if "frame" in name and what == "fill")]
    inks = [of[name, "fill"] for name in ("text", ".ui-note", ".ui-shape")]
    assert all(contrast(ink, ground) >= 4.5 for ink in inks for ground in grounds)
    assert contrast(of[".ui-channels", "fill"], paper) >= 4.5
    assert contrast(of[".ui-badge-self text", "fill"], of[".ui-badge-self .ui-badge", "fill"]) >= 4.5
    assert contrast(of["text", "fill"], of[".ui-badge", "fill"]) >= 4.5
    marks = [colour for (name, what), colour in of.items() if what == "stroke" or name.endswith("-head")]
    assert len(marks) >= 10
    assert all(contrast(mark, paper) >= 3 for mark in marks)


def test_kinds_are_told_without_colours() -> None:
    """Each kind of attention has a border of its own or a fill, and its name as text; skips are thinner than the way of the states."""
    sheet = style_sheet(interactive=False)
    lines = {
        kind: tuple(re.findall(rf"\.ui-badge-{kind} \.ui-badge \{{ ([^}}]*) \}}", sheet))
        for kind in ("self", "joint", "temporal", "pooling")
    }
    assert all(lines.values())
    assert len(set(lines.values())) == 4
    widths = {kind: float(re.findall(rf"\.ui-{kind}-line \{{[^}}]*stroke-width: ([\d.]+)", sheet)[0]) for kind in ("flow", "skip")}
    assert widths["flow"] > 1.5 * widths["skip"]
