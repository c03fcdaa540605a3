"""The HTML page in a real browser: search and sorting, and whether everyone can read it: schemes, widths, paper, no script, names."""

from __future__ import annotations

import json
import re

import pytest

from tests.page_browser import Visitor, address, click, one_visitor, shown_rows, start_browser, title, visiting, writing_pages  # noqa: F401  (fixtures)
from tests.test_draw_page import EVIL
from tests.tiny import traced
from unetinspect import Trace
from unetinspect.drawing.outline import outline_of
from unetinspect.drawing.page.markup import TIMES
from unetinspect.record import Attention
from unetinspect.units import format_bytes, format_count, format_shape, format_si


def test_search_narrows_to_what_pythons_own_filter_leaves(visit: Visitor) -> None:
    """Several words must all stand somewhere in the row, in any order; the count that is announced is that of the rows."""
    layers = traced("conditioned").attentions
    opened = visit("conditioned")
    click(opened, "#tab-attention")
    for query in ("cross", "SELF 256", "attn1 up_blocks", "  up_blocks   attn2 256x7 ", f"256{TIMES}77", "nothing-like-this", ""):
        opened.fill("#attention-search", query)
        words = query.lower().replace(TIMES, "x").split()
        expected = [layer.path for layer in layers if all(word in words_of(layer) for word in words)]
        few = f"{len(expected)} of {len(layers)} attention layers shown"

        assert shown_rows(opened, "attention") == expected
        assert opened.text_content("#attention .status") == (few if query else f"{len(layers)} attention layers")
        assert query in ("nothing-like-this", "") or 0 < len(expected) < len(layers)


def words_of(layer: Attention) -> str:
    """Write all that a row says of an attention layer."""
    shapes = [format_shape(shape) for shape in (layer.query_shape, layer.key_shape, layer.value_shape)]
    numbers = [layer.heads, layer.head_dim, format_bytes(layer.map_bytes), format_si(layer.macs), layer.index]
    size = f"{layer.map_shape[1]}x{layer.map_shape[2]}"
    return " ".join(map(str, [layer.path, layer.kind, size, *shapes, *numbers, layer.processor])).lower()


def test_kind_and_search_work_together_and_the_paths_shown_are_copied(visit: Visitor) -> None:
    """The kind narrows what the search left; copying takes just the rows that are shown, where the clipboard may be used and where not."""
    expected = [layer.path for layer in traced("conditioned").attentions if layer.kind == "cross" and "up_blocks" in layer.path]
    for permitted in (True, False):
        opened = visit("conditioned", permissions=["clipboard-read", "clipboard-write"] if permitted else [])
        if not permitted:
            opened.evaluate("() => { navigator.clipboard.writeText = () => Promise.reject(new Error('not here')); }")
        opened.evaluate("() => document.addEventListener('copy', () => (window.taken = document.activeElement.value))")
        click(opened, "#tab-attention")
        opened.fill("#attention-search", "up_blocks")
        opened.locator("#attention .kinds").get_by_text("cross").click()
        assert shown_rows(opened, "attention") == expected
        click(opened, "#attention .copy")
        opened.wait_for_function("document.querySelector('#attention .copy').textContent.startsWith('Copied')")
        taken = opened.evaluate("navigator.clipboard.readText()") if permitted else opened.evaluate("window.taken")
        assert taken.split("\n") == expected


def test_tables_are_sorted_by_value_and_not_by_text(visit: Visitor) -> None:
    """Numbers go from the largest down, then up, then back to the record's order; what is equal keeps its own order."""
    trace = traced("conditioned")
    opened = visit("conditioned")
    click(opened, "#tab-modules")
    modules = trace.modules[1:]
    falling = [module.path for module in sorted(modules, key=lambda module: -module.params)]
    by_text = [module.path for module in sorted(modules, key=lambda module: format_count(module.params), reverse=True)]
    head = opened.locator("#modules thead th", has_text="params")

    assert falling != by_text
    for expected, said in [
        (falling, "descending"),
        ([module.path for module in sorted(modules, key=lambda module: module.params)], "ascending"),
        ([module.path for module in modules], None),
    ]:
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
  const parts = (colour) => colour.match(/[\\d.]+/g).map(Number);
  const light = (colour) => parts(colour).slice(0, 3).map(v => v / 255)
    .map(v => (v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)).reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const clear = (colour) => parts(colour).length === 4 && parts(colour)[3] === 0;
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


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_text_stands_out_from_its_ground(visit: Visitor, scheme: str) -> None:
    """In both schemes, and when one is chosen against the system's, every text has a contrast of 4.5 : 1 or more."""
    other = {"light": "dark", "dark": "light"}[scheme]
    system = visit("conditioned", "#skip=1", color_scheme=scheme)
    chosen = visit("conditioned", "#skip=1", color_scheme=other)
    chosen.select_option("#theme", scheme)
    for opened in (system, chosen):
        (weakest, text), *rest = opened.evaluate(CONTRAST)
        assert weakest >= 4.5, text
        assert len(rest) > 50
        ground = opened.evaluate("getComputedStyle(document.body).backgroundColor")
        paper = opened.evaluate("getComputedStyle(document.querySelector('.ui-paper')).fill")
        bright = [int(value) > 127 for value in re.findall(r"\d+", ground + paper)]
        assert bright == [scheme == "light"] * 6


def test_no_width_makes_the_page_itself_scroll_sideways(visit: Visitor) -> None:
    """From small phones to large screens the picture and tables scroll in their own regions; words in the picture stay readable."""
    opened = visit("conditioned", "#skip=1", viewport={"width": 320, "height": 800})
    for width in (320, 375, 1024, 3840):
        opened.set_viewport_size({"width": width, "height": 800})
        for tab in ("stages", "skips", "attention", "modules"):
            opened.evaluate(f"document.getElementById('tab-{tab}').click()")
            assert opened.evaluate("document.documentElement.scrollWidth") <= width
        assert opened.evaluate("Math.min(...[...document.querySelectorAll('svg text')].map(t => t.getBoundingClientRect().height))") > 6


def test_without_scripts_everything_is_there_to_read(visit: Visitor) -> None:
    """With JavaScript off: the picture, its caption, and each row of each table are visible, and no control that would do nothing."""
    trace = traced("conditioned")
    opened = visit("conditioned", java_script_enabled=False)
    rows = [opened.locator(f"#{table} tbody tr:visible").count() for table in ("stages", "skips", "attention", "modules")]

    assert rows == [len(trace.stages), len(trace.skips), len(trace.attentions), len(trace.modules) - 1]
    assert opened.locator(".ui-stage:visible").count() == len(outline_of(trace).boxes)
    assert opened.locator("button:visible, input:visible, select:visible, aside:visible").count() == 0
    assert all(line.split(",")[0].replace("x", TIMES) in opened.text_content("svg") for line in outline_of(trace).caption[1:])


def test_screen_readers_find_a_name_on_everything_that_can_be_operated(visit: Visitor) -> None:
    """Every button, link, tab, field and region has a name, in each tab; ids stay unique; the picture tells what it is."""
    opened = visit("conditioned")
    nameless = re.compile(r"^\s*- (button|link|tab|textbox|searchbox|radio|combobox|region|table|tabpanel)(:| \[|$)", re.MULTILINE)
    for place, tab in (("#stage=mid_block", "stages"), ("#skip=1", "skips"), ("#attention", "attention"), ("#modules", "modules")):
        opened.evaluate(f"location.hash = '{place}'")
        opened.wait_for_function(f"document.querySelector('section.open').id === '{tab}'")
        heard = opened.locator("body").aria_snapshot()
        assert nameless.findall(heard) == []
        assert re.search(rf'- tab "{tab}.*\[selected\]', heard, re.IGNORECASE)
    ids = opened.evaluate("[...document.querySelectorAll('[id]')].map(e => e.id)")

    assert len(set(ids)) == len(ids)
    assert all(word in heard for word in ("- banner", "- main", "- complementary", "- tablist", "- status"))
    assert opened.locator("svg button, svg [role=button] [role=button]").count() == 0


def test_names_that_are_markup_stay_text(visit: Visitor) -> None:
    """A model and a module with evil names run nothing and load nothing; box, skip, search and deep link work with them."""
    text = traced("conditioned").to_json()
    for word in ("mid_block", "UNet2DConditionModel", "attn1"):
        text = text.replace(word, json.dumps(EVIL)[1:-1])
    opened = visit(Trace.from_json(text))
    opened.locator(".ui-stage.ui-mid > text").first.click()

    assert title(opened) == EVIL
    assert opened.evaluate("document.images.length") == 0
    click(opened, "#tab-attention")
    opened.fill("#attention-search", "<img")
    opened.locator("#attention tbody tr:visible th").first.click()
    assert EVIL in title(opened)
    again = address(opened)
    opened.reload()
    assert address(opened) == again
    assert EVIL in title(opened)
    assert opened.evaluate("[document.images.length, typeof window.evil]") == [0, "undefined"]


def test_print_holds_picture_and_tables_and_no_controls(visit: Visitor) -> None:
    """On paper: the picture unfaded, stages, skips and attention layers; no buttons, no panel."""
    opened = visit("conditioned", "#skip=1", color_scheme="light")
    opened.emulate_media(media="print")

    assert opened.locator("#stages:visible, #skips:visible, #attention:visible").count() == 3
    assert opened.locator("#panel:visible, .controls:visible, .zoom:visible, #tabs:visible").count() == 0
    assert opened.evaluate("[...document.querySelectorAll('.ui-stage, .ui-skip')].every(e => getComputedStyle(e).opacity === '1')")


def test_the_picture_grows_and_fits_again(visit: Visitor) -> None:
    """The buttons make the picture larger and smaller inside its region, and fit it to the width again."""
    opened = visit("conditioned")
    width = "document.querySelector('#view svg').getBoundingClientRect().width"
    fitting = opened.evaluate(width)
    opened.get_by_role("button", name="Larger").click()
    assert opened.evaluate(width) == pytest.approx(fitting * 1.25, abs=2)
    opened.get_by_role("button", name="Smaller").click()
    opened.get_by_role("button", name="Smaller").click()
    assert opened.evaluate(width) == pytest.approx(fitting * 0.8, abs=2)
    opened.get_by_role("button", name="Fit to the width").click()
    assert opened.evaluate(width) == fitting
