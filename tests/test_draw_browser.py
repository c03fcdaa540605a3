"""The HTML page and the SVG in a real browser: what pointer, keys and address do, and whether everyone can read it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from tests.drawn import EVIL, outlined, renamed
from tests.page_browser import (  # noqa: F401  (fixtures)
    Visitor,
    address,
    all_of,
    click,
    details,
    lit,
    missing,
    one_visitor,
    shown_rows,
    start_browser,
    title,
    visiting,
)
from tests.test_draw_picture import placed, texts_of
from tests.tiny import traced
from unetinspect.drawing.outline import Level
from unetinspect.drawing.svg import svg
from unetinspect.drawing.text_width import TIMES, text_width
from unetinspect.record import Attention, Skip
from unetinspect.units import format_bytes, format_count, format_shape, format_si

# One browser serves all: whoever shares tests out among workers keeps them together.
pytestmark = pytest.mark.xdist_group("browser")


def test_a_click_on_a_box_shows_exactly_the_record_of_its_stage(visit: Visitor) -> None:
    """For every box: its name, class and shapes, costs, counts, attention layers, skips and modules are the record's."""
    trace = traced("conditioned")
    opened = visit()
    for stage in trace.stages:
        click(opened, f'.ui-stage[data-box="{stage.name}"] > text')
        facts, text = details(opened), opened.inner_text("#details")
        modules = [module for module in trace.modules if module.path.rpartition(".")[0] == stage.name]

        assert title(opened) == stage.name
        assert opened.text_content("#details .flow") == f"{format_shape(stage.in_shape)} → {format_shape(stage.out_shape)}"
        assert facts["params"].startswith(f"{format_count(stage.params)} ")
        assert facts["MACs"].startswith(format_si(stage.macs, "MACs"))
        assert facts["peak activations"] == format_bytes(stage.activation_bytes)
        assert facts.get("resnets", "0") == str(stage.resnets)
        assert facts.get("transformer blocks", "0") == str(stage.transformer_blocks)
        tree = opened.locator("#details .tree > li > :is(.leaf, details > summary) > a, #details .tree > li > details > summary > a")
        assert tree.all_text_contents() == [module.path.removeprefix(f"{stage.name}.") for module in modules]
        assert all(layer.path.removeprefix(f"{stage.name}.") in text for layer in trace.attentions if layer.stage == stage.name)
        consumed = [skip.index for skip in trace.skips if skip.target_stage == stage.name]
        produced = {skip.index for skip in trace.skips if skip.source_stage == stage.name}
        assert [int(place) for place in re.findall(r"skip (\d+) from", text)] == consumed
        assert {int(place) for place in re.findall(r"skip (\d+) to", text)} == produced
        assert lit(opened) == {stage.name}
        assert address(opened) == f"#stage={stage.name}"


def test_the_tree_of_modules_opens_down_to_the_last_convolution(visit: Visitor) -> None:
    """Every module of a stage can be opened, shows its record's shapes and costs, and its link shows all of it."""
    trace = traced("conditioned")
    opened = visit("conditioned", "#stage=mid_block")
    for _ in range(8):
        all_of(opened, "#details .tree details:not([open]) > summary", "e.click()")
    modules = [module for module in trace.modules if module.path.startswith("mid_block.")]
    lines = dict(all_of(opened, "#details .tree a", "[e.hash, e.parentElement.textContent]"))

    assert set(lines) == {f"#module={module.path}" for module in modules}
    for module in modules:
        ran = f"{format_shape(module.in_shape)} → {format_shape(module.out_shape)}"
        assert module.class_name in lines[f"#module={module.path}"]
        assert not module.calls or ran in lines[f"#module={module.path}"]
        assert not module.params or f"{format_count(module.params)} params" in lines[f"#module={module.path}"]
    opened.locator('#details a[href$="mid_block.resnets.0.conv1"]').click()
    conv = next(module for module in trace.modules if module.path == "mid_block.resnets.0.conv1")

    assert title(opened) == conv.path
    assert details(opened)["class"] == f"{conv.class_name}({conv.detail})"
    assert details(opened)["tensors"] == ", ".join(f"{name} {format_shape(shape)}" for name, shape in conv.tensors.items())


def sum_of(skip: Skip) -> str:
    """Write hidden + skip = concat and what the resnet makes of it."""
    return f"{skip.hidden_channels} + {skip.skip_channels} = {skip.concat_channels} → {skip.out_channels}"


def test_a_click_on_a_skip_shows_where_it_comes_from_and_where_it_goes(visit: Visitor) -> None:
    """For every skip, from its row or its curve in turn: both ends alone are highlighted, all else fades, the panel has its way."""
    trace, outline = traced("plain"), outlined("plain")
    opened = visit("plain")
    click(opened, "#tab-skips")
    for skip in trace.skips:
        if skip.order % 2:
            opened.locator("#skips tbody tr").nth(skip.order).locator("td").first.click()
        else:
            opened.locator(f'.ui-skip[data-skip="{skip.index}"] text').click()
        ends = {outline.box_of(skip.source_stage).name, outline.box_of(skip.target_stage).name}
        faint = sum(all_of(opened, ".ui-stage, .ui-skip", "getComputedStyle(e).opacity < 0.5"))
        way = opened.locator("#details .way li").all_text_contents()

        assert title(opened) == f"Skip {skip.index}, numbered in production order from 0"
        assert lit(opened) == lit(opened, "lit") == ends
        assert faint == len(outline.boxes) - len(ends) + len(trace.skips) - 1
        assert [skip.source in way[0], format_shape(skip.shape) in way[1], skip.target in way[-1]] == [True, True, True]
        assert opened.text_content("#details .sum") == sum_of(skip)
        assert details(opened)[f"1{TIMES}1 shortcut"] == (skip.shortcut or "none: the channels do not change")
        assert opened.locator("#skips tr.picked th").all_text_contents() == [skip.target]
        assert address(opened) == f"#skip={skip.index}"


def test_the_panel_of_a_skip_leads_to_both_its_ends_and_to_its_neighbors(visit: Visitor) -> None:
    """Links pin the boxes; the buttons and the arrow keys go round through all skips; Escape clears."""
    trace = traced("conditioned")
    first = f"#skip={trace.skips[0].index}"
    opened = visit("conditioned", first)
    for key, at in (("ArrowRight", 1), ("ArrowLeft", 0), ("ArrowLeft", -1)):
        opened.keyboard.press(key)
        assert address(opened) == f"#skip={trace.skips[at].index}"
    opened.get_by_role("button", name="next skip").click()
    assert address(opened) == first

    for stage in (trace.skips[0].source_stage, trace.skips[0].target_stage):
        opened.goto(opened.url.partition("#")[0] + first)
        opened.locator("#details dd").get_by_role("link", name=stage, exact=True).click()
        assert title(opened) == stage
        assert opened.locator(f'.ui-stage[data-box="{stage}"]').get_attribute("aria-pressed") == "true"
    opened.keyboard.press("Escape")
    assert (address(opened), opened.locator("[aria-pressed=true], tr.picked").count()) == ("", 0)
    assert opened.evaluate("document.activeElement.dataset.box") == trace.skips[0].target_stage


def test_pointing_shows_a_box_and_a_pin_keeps_it(visit: Visitor) -> None:
    """The pointer alone says what it is over; once one is pinned, pointing at another changes nothing, until the details are closed."""
    opened = visit()
    for box in ("mid_block", "conv_in"):
        opened.hover(f'.ui-stage[data-box="{box}"] > text >> nth=0')
        assert (hinted(opened), lit(opened), address(opened)) == (box, {box}, "")
    click(opened, '.ui-stage[data-box="up_blocks.0"] > text')
    opened.hover('.ui-stage[data-box="mid_block"] > text >> nth=0')
    assert (title(opened), lit(opened)) == ("up_blocks.0", {"up_blocks.0"})
    click(opened, "#close")
    opened.hover('.ui-stage[data-box="mid_block"] > text >> nth=0')
    assert hinted(opened) == "mid_block"
    assert opened.is_hidden("#panel")


def hinted(opened: Any) -> str:
    """Return the box that the line above the picture is about."""
    return opened.text_content("#hint").partition(",")[0]


def test_a_layer_and_the_row_of_an_attention_layer_show_their_record_and_box(visit: Visitor) -> None:
    """At the level of layers: every attention layer's row has its numbers, lights its transformer and box; each layer is a module."""
    trace, outline = traced("conditioned"), outlined("conditioned")
    opened = visit("conditioned", level="layer")
    click(opened, "#tab-attention")
    for row, layer in enumerate(trace.attentions):
        opened.locator("#attention tbody tr").nth(row).locator("td").first.click()
        facts = details(opened)
        marked = all_of(opened, ".ui-layer.picked", "e.dataset.path")

        assert (title(opened), lit(opened), address(opened)) == (layer.path, {layer.stage}, f"#attn={layer.path}")
        assert (facts["Q"], facts["K"]) == (format_shape(layer.query_shape), format_shape(layer.key_shape))
        assert (facts["map bytes"], facts["kind"]) == (format_bytes(layer.map_bytes), layer.kind)
        assert [layer.path.startswith(f"{path}.") for path in marked] == [True]
    for shown in outline.box_of("up_blocks.1").layers:
        click(opened, f'.ui-layer[data-path="{shown.module.path}"] > text')
        assert (title(opened), lit(opened)) == (shown.module.path, {"up_blocks.1"})
        assert details(opened)["out"] == format_shape(shown.module.out_shape)


def test_an_address_opens_what_it_names(visit: Visitor) -> None:
    """A deep link opens its box, skip, layer or module, with its table; one that names nothing changes nothing; a table's opens its tab."""
    layer = "mid_block.attentions.0.transformer_blocks.0.attn2"
    opened = visit("conditioned", "#skip=99")
    assert (title(opened), lit(opened)) == ("Details", set())
    for place in ("#stage=nothing", "#attn=%E0%A4%A", "#skip=1.5", "#what", "#attention"):
        opened.evaluate(f"location.hash = '{place}'")
    opened.wait_for_function("document.querySelector('section.open').id === 'attention'")
    assert (title(opened), lit(opened)) == ("Details", set())
    for place, expected, tab in (
        ("#stage=mid_block", "mid_block", "stages"),
        ("#skip=1", "Skip 1, numbered in production order from 0", "skips"),
        (f"#attn={layer}", layer, "attention"),
        ("#module=conv_out", "conv_out", "modules"),
    ):
        opened.evaluate(f"location.hash = '{place}'")
        opened.wait_for_function(f"document.querySelector('section.open').id === '{tab}'")
        assert title(opened) == expected
        assert opened.locator(f"#{tab} tr.picked").count() == 1


def test_everything_can_be_done_by_keyboard(visit: Visitor) -> None:
    """Tab reaches boxes, panel, tabs, search and rows in turn; Enter pins, Escape returns to the box, arrows walk tabs and rows."""
    opened = visit()
    press = opened.keyboard.press
    press("Tab")
    assert opened.evaluate("document.activeElement.textContent") == "Skip to the tables"
    tab_to(opened, "document.activeElement.dataset.box === 'mid_block'")
    assert hinted(opened) == "mid_block"
    press("Enter")
    assert opened.evaluate("document.activeElement.id") == "details-title"
    assert address(opened) == "#stage=mid_block"
    press("Escape")
    assert opened.evaluate("document.activeElement.dataset.box") == "mid_block"

    tab_to(opened, "document.activeElement.id === 'tab-stages'")
    press("ArrowRight")
    press("ArrowRight")
    assert opened.evaluate("document.querySelector('section.open').id") == "attention"
    tab_to(opened, "document.activeElement.type === 'search'")
    opened.keyboard.type("up_blocks")
    tab_to(opened, "document.activeElement.closest('tbody') !== null")
    press("ArrowDown")
    press("Enter")
    assert address(opened) == f"#attn={shown_rows(opened, 'attention')[1]}"
    assert "pinned" in opened.text_content("#said")
    assert opened.evaluate("getComputedStyle(document.activeElement).outlineStyle") != "none"


def tab_to(opened: Any, condition: str) -> None:
    """Press Tab until the condition holds; every stop on the way is a visible element."""
    for _ in range(80):
        opened.keyboard.press("Tab")
        assert opened.evaluate("document.activeElement.getClientRects().length") > 0
        if opened.evaluate(condition):
            return
    raise AssertionError(f"Tab never reached {condition}")


def words_of(layer: Attention) -> str:
    """Write all that a row has of an attention layer."""
    shapes = [format_shape(shape) for shape in (layer.query_shape, layer.key_shape, layer.value_shape)]
    numbers = [layer.heads, layer.head_dim, format_bytes(layer.map_bytes), format_si(layer.macs), layer.index]
    size = f"{layer.map_shape[1]}x{layer.map_shape[2]}"
    return " ".join(map(str, [layer.path, layer.kind, size, *shapes, *numbers, layer.processor])).lower()


def test_search_narrows_to_what_pythons_own_filter_leaves(visit: Visitor) -> None:
    """Several words must all be somewhere in the row, in any order; the count that is announced is that of the rows."""
    layers = traced("conditioned").attentions
    opened = visit()
    click(opened, "#tab-attention")
    for query in ("cross", "SELF 256", "attn1 up_blocks", "  up_blocks   attn2 256x7 ", f"256{TIMES}77", "nothing-like-this", ""):
        opened.fill("#attention-search", query)
        words = query.lower().replace(TIMES, "x").split()
        expected = [layer.path for layer in layers if all(word in words_of(layer) for word in words)]
        few = f"{len(expected)} of {len(layers)} attention layers shown"

        assert shown_rows(opened, "attention") == expected
        assert opened.text_content("#attention .status") == (few if query else f"{len(layers)} attention layers")
        assert query in ("nothing-like-this", "") or 0 < len(expected) < len(layers)


@pytest.mark.parametrize("permitted", [True, False])
def test_kind_and_search_work_together_and_the_paths_shown_are_copied(visit: Visitor, permitted: bool) -> None:
    """The kind narrows what the search left; copying takes just the rows that are shown, with permission for the clipboard or without."""
    expected = [layer.path for layer in traced("conditioned").attentions if layer.kind == "cross" and "up_blocks" in layer.path]
    opened = visit("conditioned", permissions=["clipboard-read", "clipboard-write"] if permitted else [])
    if not permitted:
        opened.evaluate("() => { navigator.clipboard.writeText = () => Promise.reject(new Error('not here')); }")
    opened.evaluate("() => document.addEventListener('copy', () => (window.consumed = document.activeElement.value))")
    click(opened, "#tab-attention")
    opened.fill("#attention-search", "up_blocks")
    opened.locator("#attention .kinds").get_by_text("cross").click()
    assert shown_rows(opened, "attention") == expected
    click(opened, "#attention .copy")
    opened.wait_for_function("document.querySelector('#attention .copy').textContent.startsWith('Copied')")
    assert opened.evaluate("navigator.clipboard.readText()" if permitted else "window.consumed").split("\n") == expected


def test_tables_are_sorted_by_value_and_not_by_text(visit: Visitor) -> None:
    """Numbers go from the largest down, then up, then back to the record's order; equal rows keep their own order."""
    trace = traced("conditioned")
    opened = visit()
    click(opened, "#tab-modules")
    modules = trace.modules[1:]
    falling = [module.path for module in sorted(modules, key=lambda module: -module.params)]
    rising = [module.path for module in sorted(modules, key=lambda module: module.params)]
    head = opened.locator("#modules thead th", has_text="params")

    assert falling != [module.path for module in sorted(modules, key=lambda module: format_count(module.params), reverse=True)]
    for expected, said in [(falling, "descending"), (rising, "ascending"), ([module.path for module in modules], None)]:
        head.get_by_role("button").click()
        assert shown_rows(opened, "modules") == expected
        assert head.get_attribute("aria-sort") == said
    click(opened, "#tab-attention")
    opened.locator("#attention thead button", has_text="kind").click()
    assert shown_rows(opened, "attention") == [layer.path for layer in sorted(trace.attentions, key=lambda layer: layer.kind)]


def test_of_many_rows_the_first_are_shown_and_all_on_demand(visit: Visitor) -> None:
    """A table of hundreds of modules shows the first 250; search looks through all of them, and a button shows the rest."""
    modules = traced("sd15").modules[1:]
    opened = visit("sd15")
    click(opened, "#tab-modules")

    assert shown_rows(opened, "modules") == [module.path for module in modules[:250]]
    assert opened.text_content("#modules .status") == f"{len(modules)} modules, the first 250 shown"
    opened.fill("#modules-search", "up_blocks.3 linear")
    found = [m.path for m in modules if "up_blocks.3" in m.path and "linear" in f"{m.path} {m.class_name}({m.detail})".lower()]
    assert shown_rows(opened, "modules") == found
    opened.fill("#modules-search", "")
    click(opened, "#modules .all")
    assert shown_rows(opened, "modules") == [module.path for module in modules]


CONTRAST = """() => {
  const parts = (color) => color.match(/[\\d.]+/g).map(Number);
  const light = (color) => parts(color).slice(0, 3).map(v => v / 255)
    .map(v => (v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)).reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const clear = (color) => parts(color).length === 4 && parts(color)[3] === 0;
  const own = (e) => getComputedStyle(e).backgroundColor;
  const ground = (e) => (!e ? 'rgb(255, 255, 255)' : clear(own(e)) ? ground(e.parentElement) : own(e));
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT), found = [];
  while (walker.nextNode()) {
    const e = walker.currentNode.parentElement;
    if (!walker.currentNode.textContent.trim() || !e.getClientRects().length || e.closest('svg, script')) continue;
    const [a, b] = [light(getComputedStyle(e).color), light(ground(e))].sort((x, y) => y - x);
    found.push([(a + 0.05) / (b + 0.05), e.textContent.slice(0, 40)]);
  }
  return found.sort((x, y) => x[0] - y[0]);
}"""


# The lines of each text, as they are laid out, each with whether it is the last.
LINES = """(selector) => [...document.querySelectorAll(selector)].map((link) => {
  const lines = [];
  for (const node of [...link.childNodes].filter((one) => one.nodeType === Node.TEXT_NODE)) {
    for (let at = 0; at < node.length; at++) {
      const range = document.createRange();
      range.setStart(node, at);
      range.setEnd(node, at + 1);
      const top = Math.round(range.getBoundingClientRect().top);
      if (lines.at(-1)?.top === top) lines.at(-1).text += node.data[at];
      else lines.push({ top, text: node.data[at] });
    }
  }
  return lines.map(({ text }, at) => [text, at === lines.length - 1]);
})"""


def brightness(opened: Any, *selectors: str) -> list[bool]:
    """Return which of some elements are brighter than gray: by their fill, or where they have a background, by that."""
    styles = [
        opened.evaluate(f"getComputedStyle(document.querySelector('{selector}'))[{prop!r}]")
        for selector, _, prop in (one.partition(" ") for one in selectors)
    ]
    return [sum(map(int, re.findall(r"\d+", style)[:3])) > 3 * 128 for style in styles]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_text_stands_out_from_its_ground(visit: Visitor, scheme: str) -> None:
    """In both schemes, and when one is chosen against the system's, every text has a contrast of 4.5 : 1 or more; a file follows too."""
    system = visit("conditioned", "#skip=1", color_scheme=scheme)
    chosen = visit("conditioned", "#skip=1", color_scheme={"light": "dark", "dark": "light"}[scheme])
    chosen.select_option("#theme", scheme)
    for opened in (system, chosen):
        (weakest, text), *rest = opened.evaluate(CONTRAST)
        assert weakest >= 4.5, text
        assert len(rest) > 50
        assert brightness(opened, "body backgroundColor", ".ui-paper fill", ".ui-title fill") == [scheme == "light"] * 2 + [
            scheme == "dark"
        ]
    system.set_content(svg(outlined("conditioned")))
    assert brightness(system, ".ui-paper fill", ".ui-title fill", ".ui-note fill") == [scheme == "light"] + [scheme == "dark"] * 2


def test_no_width_makes_the_page_itself_scroll_sideways(visit: Visitor) -> None:
    """From small phones to large screens the picture and tables scroll in their own regions; words in the picture stay readable."""
    opened = visit("conditioned", "#skip=1", viewport={"width": 320, "height": 800})
    for width in (320, 375, 1024, 3840):
        opened.set_viewport_size({"width": width, "height": 800})
        for tab in ("stages", "skips", "attention", "modules"):
            opened.evaluate(f"document.getElementById('tab-{tab}').click()")
            assert opened.evaluate("document.documentElement.scrollWidth") <= width
        assert min(all_of(opened, "svg text", "e.getBoundingClientRect().height")) > 6


def test_without_scripts_everything_is_there_to_read(visit: Visitor) -> None:
    """With JavaScript off: the picture, its caption, and each row of each table are visible, and no control that would do nothing."""
    trace = traced("conditioned")
    opened = visit("conditioned", java_script_enabled=False)
    rows = [opened.locator(f"#{table} tbody tr:visible").count() for table in ("stages", "skips", "attention", "modules")]

    assert rows == [len(trace.stages), len(trace.skips), len(trace.attentions), len(trace.modules) - 1]
    assert opened.locator(".ui-stage:visible").count() == len(outlined("conditioned").boxes)
    assert opened.locator("button:visible, input:visible, select:visible, aside:visible").count() == 0
    assert format_si(trace.totals.macs, "MACs") in opened.text_content("svg")


def test_screen_readers_find_a_name_on_everything_that_can_be_operated(visit: Visitor) -> None:
    """Every button, link, tab, field and region has a name, in each tab; ids stay unique; the picture says what it is."""
    opened = visit()
    nameless = re.compile(r"^\s*- (button|link|tab|textbox|searchbox|radio|combobox|region|table|tabpanel)(:| \[|$)", re.MULTILINE)
    for place, tab in (("#stage=mid_block", "stages"), ("#skip=1", "skips"), ("#attention", "attention"), ("#modules", "modules")):
        opened.evaluate(f"location.hash = '{place}'")
        opened.wait_for_function(f"document.querySelector('section.open').id === '{tab}'")
        heard = opened.locator("body").aria_snapshot()
        assert nameless.findall(heard) == []
        assert re.search(rf'- tab "{tab}.*\[selected\]', heard, re.IGNORECASE)
    ids = all_of(opened, "[id]", "e.id")

    assert len(set(ids)) == len(ids)
    assert all(word in heard for word in ("- banner", "- main", "- complementary", "- tablist", "- status"))
    assert opened.locator("svg button, svg [role=button] [role=button]").count() == 0


def test_names_that_are_markup_stay_text(visit: Visitor) -> None:
    """A model and modules with evil names run nothing and load nothing; box, search and deep link work with them."""
    opened = visit(renamed("mid_block", "UNet2DConditionModel", "attn1"))
    begins = EVIL.partition("\x1b")[0]
    opened.locator(".ui-stage.ui-mid > text").first.click()

    assert title(opened).startswith(begins)
    click(opened, "#tab-attention")
    opened.fill("#attention-search", "<i>")
    opened.locator("#attention tbody tr:visible th").first.click()
    assert begins in title(opened)
    again = address(opened)
    opened.reload()
    assert address(opened) == again
    assert begins in title(opened)
    assert opened.locator("i, svg script").count() == 0


def test_print_has_picture_and_tables_and_no_controls(visit: Visitor) -> None:
    """On paper, which is white whatever the scheme: the picture unfaded, stages, skips and attention layers; no buttons, no panel."""
    opened = visit("conditioned", "#skip=1", color_scheme="light")
    opened.select_option("#theme", "dark")
    opened.emulate_media(media="print")

    assert opened.locator("#stages:visible, #skips:visible, #attention:visible").count() == 3
    assert opened.locator("#panel:visible, .controls:visible, .zoom:visible, #tabs:visible").count() == 0
    assert set(all_of(opened, ".ui-stage, .ui-skip", "getComputedStyle(e).opacity")) == {"1"}
    assert brightness(opened, "body backgroundColor", ".ui-paper fill", ".ui-title fill") == [True, True, False]


def test_the_picture_grows_and_fits_again(visit: Visitor) -> None:
    """The buttons make the picture larger and smaller inside its region; to fit the window is to show all of it, at any size."""
    opened = visit("conditioned", viewport={"width": 1440, "height": 900})
    width = "document.querySelector('#view svg').getBoundingClientRect().width"
    fitting = opened.evaluate(width)
    for name, factor in (("Larger", 1.25), ("Smaller", 1), ("Smaller", 0.8)):
        opened.get_by_role("button", name=name).click()
        assert opened.evaluate(width) == pytest.approx(fitting * factor, abs=2)
    opened.get_by_role("button", name="Fit to the window").click()
    for size in ({"width": 1440, "height": 900}, {"width": 390, "height": 844}, {"width": 1440, "height": 500}):
        opened.set_viewport_size(size)
        opened.locator("section.picture").evaluate("e => e.scrollIntoView()")
        shown = opened.locator("#view svg").bounding_box()
        assert shown["x"] >= 0
        assert shown["x"] + shown["width"] <= size["width"]
        assert 0 < shown["y"] < shown["y"] + shown["height"] <= size["height"]
        # As large as that allows.
        assert shown["width"] > size["width"] - 60 or shown["y"] + shown["height"] > size["height"] - 30


@pytest.mark.parametrize("width", [390, 1440])
def test_the_details_take_room_only_while_something_is_picked(visit: Visitor, width: int) -> None:
    """A click opens them, beside the picture or below it, without hiding what was clicked; they are closed by their button and by Esc."""
    opened = visit("conditioned", viewport={"width": width, "height": 844}, has_touch=True)
    whole = opened.locator("#view").bounding_box()["width"]
    assert opened.is_hidden("#panel")
    assert whole > width - 90
    for close in (lambda: opened.tap("#close"), lambda: opened.keyboard.press("Escape")):
        opened.locator('.ui-stage[data-box="mid_block"] > text').first.tap()
        panel, box = opened.locator("#panel").bounding_box(), opened.locator('.ui-stage[data-box="mid_block"] text').first.bounding_box()
        assert panel["x"] + panel["width"] <= width
        assert box["y"] + box["height"] <= panel["y"] or box["x"] + box["width"] <= panel["x"]
        assert opened.locator("#panel").evaluate("e => getComputedStyle(e).overflowY") == "auto"
        close()
        assert opened.is_hidden("#panel")
        assert opened.locator("#view").bounding_box()["width"] == whole


@pytest.mark.parametrize("model", ["sd15", "sdxl"])
def test_every_column_of_the_stages_is_in_sight_on_a_laptop(visit: Visitor, model: str) -> None:
    """At 1280 pixels, while the panel is closed."""
    opened = visit(model, viewport={"width": 1280, "height": 900})
    table, room = opened.evaluate("(place => [place.scrollWidth, place.clientWidth])(document.querySelector('#stages .scroll'))")

    assert table <= room


@pytest.mark.parametrize("width", [390, 1440])
def test_tables_break_names_only_after_dots(visit: Visitor, width: int) -> None:
    """Each line of a name in the first column ends with a dot or with the name; names and captions stay in sight."""
    opened = visit("sd15", viewport={"width": width, "height": 844})
    for tab, table in (("tab-attention", "attention"), ("tab-stages", "stages")):
        click(opened, f"#{tab}")
        opened.locator(f"#{table} .scroll").evaluate("e => e.scrollLeft = 300")
        lines = opened.evaluate(LINES, f"#{table} tbody tr:not([hidden]) th a")
        assert all(line.endswith(".") or is_last for name in lines for line, is_last in name)
        boxes = [opened.locator(f"#{table} {part}").first.bounding_box() for part in ("tbody th", "caption span")]
        assert all(box["x"] >= 0 and box["x"] + box["width"] <= width for box in boxes)
        assert max(map(len, lines)) > 1 or width > 390 or table == "stages"


FAMILIES = ("system-ui", "Helvetica", "Arial", '"DejaVu Sans"', "sans-serif")
# Of each text: its content, its length, and where its ink is.
MEASURE = "(b => [e.textContent, e.getComputedTextLength(), b.x, b.y, b.width, b.height])(e.getBBox())"


@pytest.mark.parametrize(("name", "level"), [("sd15", "layer"), ("svd-xt", "stage"), ("ControlNetUnionModel", "layer")])
def test_no_text_leaves_its_place_in_a_browser(visitor: Visitor, name: str, level: Level) -> None:
    """As drawn in each family that the style sheet asks for, every text is within the rectangle that it was laid out for."""
    view, texts = visitor.common, texts_of(placed(name, level))
    view.set_content(f'<body style="margin: 0">{svg(outlined(name), level=level)}')
    for family in FAMILIES:
        view.evaluate("family => document.querySelectorAll('svg text').forEach(text => text.style.fontFamily = family)", family)
        drawn = all_of(view, "svg text", MEASURE)
        assert len(drawn) == len(texts)
        for content, length, x, y, width, height in drawn:
            homes = [text.rect for text in texts if text.content == content]
            # Of ink, rounded outwards: that of the "f" of "self" reaches beyond its advance.
            inside = [one for one in homes if one.x - 1.5 <= x and x + width <= one.right + 1.5]
            assert inside, (family, content, x, width, homes)
            assert length <= inside[0].width + 0.1
            assert any(one.y - 1.5 <= y and y + height <= one.bottom + 1.5 for one in inside), (family, content, y, height)


@pytest.mark.parametrize(("weight", "bold"), [(400, False), (700, True)])
def test_every_letter_is_narrower_than_the_tables_say(visitor: Visitor, weight: int, bold: bool) -> None:
    """Letter by letter, in each family: no advance is wider than what the layout counts with."""
    letters = [*map(chr, range(33, 127)), TIMES, "→", "·", "…"]
    view = visitor.common
    view.set_content(f'<svg xmlns="http://www.w3.org/2000/svg"><text font-size="100" font-weight="{weight}"></text></svg>')
    script = """([letters, family]) => { const text = document.querySelector('text'); text.style.fontFamily = family;
        return letters.map(one => { text.textContent = one; return text.getComputedTextLength(); }); }"""
    for family in FAMILIES:
        widths = view.evaluate(script, [letters, family])
        assert all(widths)
        assert [one for one, width in zip(letters, widths, strict=True) if width > text_width(one, 100, bold=bold) + 0.5] == [], family


@pytest.mark.parametrize("interactive", [False, True])
def test_a_file_is_a_picture_by_itself(visitor: Visitor, tmp_path: Path, interactive: bool) -> None:
    """Opened as a file, the SVG is an SVG document, asks for nothing else, and below the pointer is the skip that is drawn there."""
    path = tmp_path / "unet.svg"
    path.write_text(svg(outlined("conditioned"), level="layer", interactive=interactive), encoding="utf-8")
    view = visitor.window(viewport={"width": 1400, "height": 2400})
    visitor.visited.append(path.as_uri())
    view.goto(path.as_uri())
    assert view.evaluate("document.documentElement.namespaceURI") == "http://www.w3.org/2000/svg"
    skip = placed("conditioned", "layer").skips[0]
    x, y = ((one + other) / 2 for one, other in zip(skip.bend_start, skip.bend_end, strict=True))
    found = view.evaluate("([x, y]) => document.elementFromPoint(x, y + 4)?.closest('.ui-skip')?.dataset.skip ?? null", [x, y])
    assert found == (skip.name if interactive else None)
    visitor.leave()


def test_where_no_browser_is_the_tests_skip_but_not_in_ci(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is missing is named; with CI set that is a failure."""
    monkeypatch.delenv("CI", raising=False)
    with pytest.raises(pytest.skip.Exception, match="Chromium is missing"):
        missing("Chromium")
    monkeypatch.setenv("CI", "true")
    with pytest.raises(pytest.fail.Exception, match="Chromium is missing"):
        missing("Chromium")
