"""The HTML page in a real browser: boxes, skips, layers and modules by pointer, keys and address."""

from __future__ import annotations

import re
from typing import Any

import pytest

from tests.page_browser import (  # noqa: F401  (fixtures)
    Visitor,
    address,
    click,
    details,
    lit,
    missing,
    one_visitor,
    shown_rows,
    start_browser,
    title,
    visiting,
    writing_pages,
)
from tests.tiny import traced
from unetinspect.drawing.outline import outline_of
from unetinspect.drawing.page.markup import TIMES
from unetinspect.record import Skip
from unetinspect.units import format_bytes, format_count, format_shape, format_si


def test_a_click_on_a_box_shows_exactly_the_record_of_its_stage(visit: Visitor) -> None:
    """For every box: its name, class and shapes, costs, counts, attention layers, skips and modules are the record's."""
    trace = traced("conditioned")
    opened = visit("conditioned")
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
        assert [int(place) for place in re.findall(r"skip (\d+) from", text)] == [
            s.order for s in trace.skips if s.target_stage == stage.name
        ]
        assert {int(place) for place in re.findall(r"skip (\d+) to", text)} == {
            s.order for s in trace.skips if s.source_stage == stage.name
        }
        assert lit(opened) == {stage.name}
        assert address(opened) == f"#stage={stage.name}"


def test_the_tree_of_modules_opens_down_to_the_last_convolution(visit: Visitor) -> None:
    """Every module of a stage can be opened, shows its record's shapes and costs, and its link shows all of it."""
    trace = traced("conditioned")
    opened = visit("conditioned", "#stage=mid_block")
    for _ in range(8):
        opened.evaluate("document.querySelectorAll('#details .tree details:not([open]) > summary').forEach(s => s.click())")
    modules = [module for module in trace.modules if module.path.startswith("mid_block.")]
    lines = dict(opened.evaluate("[...document.querySelectorAll('#details .tree a')].map(a => [a.hash, a.parentElement.textContent])"))

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


def test_a_click_on_a_skip_shows_where_it_comes_from_and_where_it_goes(visit: Visitor) -> None:
    """For every skip, from its row or its curve in turn: both ends alone are highlighted, all else fades, the panel tells its way."""
    trace = traced("plain")
    outline = outline_of(trace)
    opened = visit("plain")
    click(opened, "#tab-skips")
    for skip in trace.skips:
        if skip.order % 2:
            opened.locator("#skips tbody tr").nth(skip.order).locator("td").first.click()
        else:
            opened.locator(f'.ui-skip[data-skip="{skip.order}"] text').click()
        ends = {outline.box_of(skip.source_stage).name, outline.box_of(skip.target_stage).name}
        faint = opened.evaluate(
            "[...document.querySelectorAll('.ui-stage, .ui-skip')].filter(e => getComputedStyle(e).opacity < 0.5).length"
        )
        told = opened.locator("#details .way li").all_text_contents()

        assert title(opened).startswith(f"Skip {skip.order} ")
        assert lit(opened) == lit(opened, "lit") == ends
        assert faint == len(outline.boxes) - len(ends) + len(trace.skips) - 1
        assert [skip.source in told[0], format_shape(skip.shape) in told[1], skip.target in told[-1]] == [True, True, True]
        assert opened.text_content("#details .sum") == sum_of(skip)
        assert details(opened)[f"1{TIMES}1 shortcut"] == (skip.shortcut or "none: the channels stay as they are")
        assert opened.locator("#skips tr.picked th").all_text_contents() == [skip.target]
        assert address(opened) == f"#skip={skip.order}"


def sum_of(skip: Skip) -> str:
    """Write hidden + skip = concat and what the resnet makes of it."""
    return f"{skip.hidden_channels} + {skip.skip_channels} = {skip.concat_channels} → {skip.out_channels}"


def test_the_panel_of_a_skip_leads_to_both_its_ends_and_to_its_neighbours(visit: Visitor) -> None:
    """Links pin the boxes; the buttons and the arrow keys go round through all skips; Escape lets go."""
    trace = traced("conditioned")
    opened = visit("conditioned", "#skip=0")
    last = len(trace.skips) - 1
    opened.keyboard.press("ArrowRight")
    assert address(opened) == "#skip=1"
    opened.keyboard.press("ArrowLeft")
    opened.keyboard.press("ArrowLeft")
    assert address(opened) == f"#skip={last}"
    opened.get_by_role("button", name="next skip").click()
    assert address(opened) == "#skip=0"

    for stage in (trace.skips[0].source_stage, trace.skips[0].target_stage):
        opened.goto(opened.url.partition("#")[0] + "#skip=0")
        opened.locator("#details dd").get_by_role("link", name=stage, exact=True).click()
        assert title(opened) == stage
        assert opened.locator(f'.ui-stage[data-box="{stage}"]').get_attribute("aria-pressed") == "true"
    opened.keyboard.press("Escape")
    assert (address(opened), opened.locator("[aria-pressed=true], tr.picked").count()) == ("", 0)
    assert opened.evaluate("document.activeElement.dataset.box") == trace.skips[0].target_stage


def test_pointing_shows_a_box_and_a_pin_keeps_it(visit: Visitor) -> None:
    """The pointer alone shows what it is over; once one is pinned, pointing at another loses nothing, until it is let go."""
    opened = visit("conditioned")
    opened.hover('.ui-stage[data-box="mid_block"] > text >> nth=0')
    assert (title(opened), lit(opened), address(opened)) == ("mid_block", {"mid_block"}, "")
    opened.hover('.ui-stage[data-box="conv_in"] > text >> nth=0')
    assert (title(opened), lit(opened)) == ("conv_in", {"conv_in"})
    click(opened, '.ui-stage[data-box="up_blocks.0"] > text')
    opened.hover('.ui-stage[data-box="mid_block"] > text >> nth=0')
    assert (title(opened), lit(opened)) == ("up_blocks.0", {"up_blocks.0"})
    click(opened, "#close")
    opened.hover('.ui-stage[data-box="mid_block"] > text >> nth=0')
    assert title(opened) == "mid_block"


def test_a_row_of_an_attention_layer_highlights_its_box(visit: Visitor) -> None:
    """Every layer's row shows its own numbers and the box that it stands in; at the level of layers, its transformer too."""
    trace = traced("conditioned")
    opened = visit("conditioned", level="layer")
    click(opened, "#tab-attention")
    for row, layer in enumerate(trace.attentions):
        opened.locator("#attention tbody tr").nth(row).locator("td").first.click()
        facts = details(opened)
        marked = opened.evaluate("[...document.querySelectorAll('.ui-layer.picked')].map(one => one.dataset.path)")

        assert (title(opened), lit(opened), address(opened)) == (layer.path, {layer.stage}, f"#attn={layer.path}")
        assert (facts["Q"], facts["K"]) == (format_shape(layer.query_shape), format_shape(layer.key_shape))
        assert (facts["map bytes"], facts["kind"]) == (format_bytes(layer.map_bytes), layer.kind)
        assert [layer.path.startswith(f"{path}.") for path in marked] == [True]


def test_a_click_on_a_layer_shows_its_module(visit: Visitor) -> None:
    """At the level of layers, each of them is a module with its record, in its box."""
    outline = outline_of(traced("conditioned"))
    opened = visit("conditioned", level="layer")
    for box in (outline.box_of("mid_block"), outline.box_of("up_blocks.1")):
        for layer in box.layers:
            click(opened, f'.ui-layer[data-path="{layer.module.path}"] > text')
            assert title(opened) == layer.module.path
            assert details(opened)["out"] == format_shape(layer.module.out_shape)
            assert lit(opened) == {box.name}


def test_an_address_opens_what_it_names(visit: Visitor) -> None:
    """A deep link opens its box, skip, layer or module, with its table, at first and when the address changes."""
    layer = "mid_block.attentions.0.transformer_blocks.0.attn2"
    opened = visit("conditioned", "#stage=mid_block")
    for place, expected, tab in (
        ("#stage=mid_block", "mid_block", "stages"),
        ("#skip=1", "Skip 1 of 4, counted from 0", "skips"),
        (f"#attn={layer}", layer, "attention"),
        ("#module=conv_out", "conv_out", "modules"),
    ):
        opened.evaluate(f"location.hash = '{place}'")
        opened.wait_for_function(f"document.querySelector('section.open').id === '{tab}'")
        assert title(opened) == expected
        assert opened.locator(f"#{tab} tr.picked").count() == 1


def test_an_address_that_names_nothing_opens_the_page_as_it_is(visit: Visitor) -> None:
    """An unknown stage, a skip that is not there, and escapes that are none change nothing; a table's name opens its tab."""
    opened = visit("conditioned", "#skip=99")
    assert (title(opened), lit(opened)) == ("Details", set())
    for place in ("#stage=nothing", "#attn=%E0%A4%A", "#skip=1.5", "#what", "#attention"):
        opened.evaluate(f"location.hash = '{place}'")
    opened.wait_for_function("document.querySelector('section.open').id === 'attention'")

    assert (title(opened), lit(opened)) == ("Details", set())


def test_everything_can_be_done_by_keyboard(visit: Visitor) -> None:
    """Tab reaches boxes, panel, tabs, search and rows in turn; Enter pins, Escape returns to the box, arrows walk tabs and rows."""
    opened = visit("conditioned")
    press = opened.keyboard.press
    press("Tab")
    assert opened.evaluate("document.activeElement.textContent") == "Skip to the tables"
    tab_to(opened, "document.activeElement.dataset.box === 'mid_block'")
    assert title(opened) == "mid_block"
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
    """Press Tab until the condition holds; every stop on the way is a visible element with a name."""
    for _ in range(80):
        opened.keyboard.press("Tab")
        assert opened.evaluate("document.activeElement.getClientRects().length") > 0
        if opened.evaluate(condition):
            return
    raise AssertionError(f"Tab never reached {condition}")


def test_where_no_browser_is_the_tests_skip_but_not_in_ci(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is missing is named; with CI set that is a failure."""
    monkeypatch.delenv("CI", raising=False)
    with pytest.raises(pytest.skip.Exception, match="Chromium is missing"):
        missing("Chromium")
    monkeypatch.setenv("CI", "true")
    with pytest.raises(pytest.fail.Exception, match="Chromium is missing"):
        missing("Chromium")
