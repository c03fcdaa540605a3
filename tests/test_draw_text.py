"""`draw` in the terminal: the U at 80 columns and more, a list below, every number of the record in both."""

from __future__ import annotations

import json
import re
from collections import Counter
from functools import cache
from itertools import takewhile

import msgspec
import pytest

from tests.drawn import DRAWN, KNOWN, drawn
from tests.tiny import traced
from unetinspect import Trace
from unetinspect.drawing.dot import dot
from unetinspect.drawing.forms import Level
from unetinspect.drawing.mermaid import mermaid
from unetinspect.drawing.outline import Outline, mark_text, outline_of
from unetinspect.drawing.terminal import terminal
from unetinspect.drawing.terminal.canvas import fold
from unetinspect.record import SkipChange
from unetinspect.terminal import cells

EVIL = 'a"b]c[d`e--><i>&amp;#35;|x\x1b[31m\ny%%{init}%%é;style a:#b;'
_SUM = re.compile(r"(\d+) \+ (\d+)(?: = \d+ \(MISMATCH\))? -> (\d+)(?:, (\d+) times)?")
_MARK = re.compile(r"(?:(\d+) )?\b(self|cross|joint|temporal|pooling) (\d+)x(\d+)")
_LINE = re.compile(r"\+-+ (\d+) -+>\|")


@cache
def outline(name: str) -> Outline:
    """Return what is drawn of one of the records."""
    return outline_of(drawn(name))


def ascii_text(trace: Trace | Outline, *, width: int | None = 80, level: Level = "stage") -> str:
    """Draw in ASCII without colours."""
    outlined = trace if isinstance(trace, Outline) else outline_of(trace)
    return terminal(outlined, level=level, width=width, unicode=False, color=False)


def sums_of(trace: Trace) -> Counter[tuple[int, ...]]:
    """Count the (hidden, skip, out) channels of a record."""
    return Counter((skip.hidden_channels, skip.skip_channels, skip.out_channels or 0) for skip in trace.skips)


def sums_in(text: str) -> Counter[tuple[int, ...]]:
    """Count the (hidden, skip, out) channels that a text writes."""
    found: Counter[tuple[int, ...]] = Counter()
    for *numbers, times in _SUM.findall(text):
        found[tuple(map(int, numbers))] += int(times or 1)
    return found


def marks_of(trace: Trace) -> Counter[tuple[str, int, int]]:
    """Count the attention layers of a record by kind and map, each layer once."""
    return Counter(
        {(layer.path, layer.kind, *layer.map_shape[1:]): (layer.kind, *layer.map_shape[1:]) for layer in trace.attentions}.values()
    )


def marks_in(text: str) -> Counter[tuple[str, int, int]]:
    """Count the attention layers that a text writes, by kind and map."""
    found: Counter[tuple[str, int, int]] = Counter()
    for count, kind, queries, keys in _MARK.findall(text):
        found[kind, int(queries), int(keys)] += int(count or 1)
    return found


def named_above(lines: list[str], place: int, column: int) -> str:
    """Return the name in the frame of the box whose left side is in a column, at a line."""
    while lines[place][column : column + 2] != "+ ":
        assert lines[place][column] == "|"
        place -= 1
    return lines[place][column + 2 :].split()[0]


def drawn_ends(text: str) -> list[tuple[str, int, str]]:
    """Return what each level line joins, read from the picture alone: the module it leaves, its channels, the module it enters."""
    lines = text.split("\n")
    found = []
    for place, line in enumerate(lines):
        for match in _LINE.finditer(line):
            left, right = line.rfind("|", 0, match.start()), match.end() - 1
            ends = [line[left + 1 : match.start()].strip(), line[right + 1 :].strip().partition("  ")[0]]
            boxes = [named_above(lines, place, left), named_above(lines, place, right)]
            paths = [
                box if end == "output" else end if end.startswith(box) else f"{box}.{end}" for box, end in zip(boxes, ends, strict=True)
            ]
            found.append((paths[0], int(match[1]), paths[1]))
    return found


def test_ends_of_skips_are_read_from_a_picture_and_a_wrong_line_is_seen() -> None:
    """The reading that the next tests lean on sees where a line leaves and enters."""
    text = "+ a.0  8x8 +        + b.1 -- 8x8 +\n| output   +-- 3 -->| r.2  1 + 3 |"

    assert drawn_ends(text) == [("a.0", 3, "b.1.r.2")]


@pytest.mark.parametrize("name", DRAWN)
@pytest.mark.parametrize("width", [80, 120])
def test_every_skip_is_a_level_line_from_its_source_to_its_target(name: str, width: int) -> None:
    """At 80 and 120 columns each skip is drawn once, with its channels, between the rows of the modules that made and took it."""
    trace = drawn(name)
    wanted = {(skip.source, skip.skip_channels, skip.target) for skip in trace.skips}
    found = drawn_ends(ascii_text(outline(name), width=width))

    assert sorted(found) == sorted(wanted)


@pytest.mark.parametrize("name", DRAWN)
@pytest.mark.parametrize(("width", "level"), [(80, "stage"), (120, "layer"), (40, "stage"), (59, "layer")])
def test_every_fact_is_in_the_text(name: str, width: int, level: Level) -> None:
    """No line is too wide, all is ASCII, and every box, shape, sum and attention layer of the record can be read again."""
    trace = drawn(name)
    text = ascii_text(outline(name), width=width, level=level)
    whole = re.sub(r"\n +", " ", text) if width < 60 else text  # a folded line is one line again

    assert max(map(len, text.split("\n"))) <= width
    assert text.isascii()
    assert sums_in(whole) == sums_of(trace)
    assert marks_in(whole) == marks_of(trace)
    assert [box.name for box in outline(name).boxes if box.name not in whole] == []
    assert [stage.name for stage in trace.stages if stage.out_shape and str(stage.out_shape) not in whole] == []


@pytest.mark.parametrize("name", DRAWN)
def test_boxes_draw_as_many_as_ascii(name: str) -> None:
    """With box-drawing characters it says the same, and is the same when drawn again; no width asked for is at most 120."""
    text = terminal(outline(name), level="stage", width=None, unicode=True, color=False)
    plain = terminal(outline(name), level="stage", width=None, unicode=True, color=False)

    assert text == plain
    assert max(map(cells, text.split("\n"))) <= 120
    assert sums_in(text.replace("→", "->")) == sums_of(drawn(name))
    assert marks_in(text) == marks_of(drawn(name))
    assert text.count("▶") == len({(skip.source, skip.target) for skip in drawn(name).skips})


@pytest.mark.parametrize("width", [1, 20, 33])
def test_narrow_terminals_get_everything_too(width: int) -> None:
    """At 20 columns a list is folded: nothing is cut, and no line is wider than 20."""
    text = ascii_text(outline("sd15"), width=width)
    solid = re.sub(r"\s", "", text)

    assert max(map(len, text.split("\n"))) <= max(width, 20)
    for skip in drawn("sd15").skips:
        assert f"{skip.hidden_channels}+{skip.skip_channels}->{skip.out_channels},skipof{skip.source}" in solid
        assert f"skip{skip.skip_channels}->{skip.target}" in solid


@pytest.mark.parametrize("name", KNOWN)
def test_eighty_columns_hold_a_picture(name: str) -> None:
    """The U's that everybody knows are pictures at 80 columns: two columns of boxes, no list."""
    frames = [line for line in ascii_text(outline(name)).split("\n") if line.count("+ ") >= 2]

    assert frames


def test_skips_that_are_no_stack_are_named_where_lines_would_cross() -> None:
    """Where skips are not taken in the reverse of their order, what cannot be a level line names its other end in both boxes."""
    trace = traced("sd15")
    one, *between, other = trace.skips
    ends = ("target", "target_stage", "hidden_channels", "out_channels", "concat_channels")
    first = msgspec.structs.replace(one, **{end: getattr(other, end) for end in ends})
    last = msgspec.structs.replace(other, **{end: getattr(one, end) for end in ends})
    crossed = msgspec.structs.replace(trace, skips=(last, *between, first))
    text = ascii_text(outline_of(crossed), width=120)
    lines = drawn_ends(text)

    assert {(source, target) for source, _, target in lines} < {(skip.source, skip.target) for skip in crossed.skips}
    assert len(lines) == 10
    for skip in (first, last):
        assert f"{skip.skip_channels} -> {skip.target} " in text
        assert f"  skip of {skip.source} " in text


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


@pytest.mark.parametrize("name", DRAWN)
@pytest.mark.parametrize(("width", "level"), [(80, "stage"), (120, "stage"), (80, "layer")])
def test_what_a_box_says_of_itself_stands_first(name: str, width: int, level: Level) -> None:
    """Channels and attention layers stand right under the title, or in it, whole: no row of a module is above them."""
    boxes = boxes_in(ascii_text(outline(name), width=width, level=level))
    summary = re.compile(r"\d+ (?:channels?|self|cross|joint|temporal|pooling)\b")

    for box in outline(name).boxes:
        for head, rows in boxes:
            if head.split()[0] != box.name:
                continue
            told = [row for row in rows if summary.match(row)]
            marks = box.marks if level == "stage" or not box.layers else ()
            words = [head.rpartition("  ")[2].rpartition("- ")[2].partition(", ")[2], *", ".join(told).split(", ")]

            assert rows[: len(told)] == told
            assert list(filter(None, words)) == [*([f"{box.channels} channels"] if box.channels else []), *map(mark_text, marks)]


def test_what_happened_to_a_skip_is_at_its_channels() -> None:
    """A filter, and a sum with what is no source of the skip, are named in every form; a sum of its own sources is not."""
    trace = traced("sd15")
    first, second, third, *others = trace.skips
    added = SkipChange(kind="sum", with_=("down_block_additional_residuals.1",), shape=first.shape, ops=("add",))
    own = SkipChange(kind="sum", with_=third.sources, shape=third.shape, ops=("add",))
    filtered = SkipChange(kind="filter", shape=first.shape, ops=("fft",))
    changed = [
        msgspec.structs.replace(skip, changes=changes)
        for skip, changes in ((first, (added, filtered)), (second, (added, added)), (third, (own,)))
    ]
    outlined = outline_of(msgspec.structs.replace(trace, skips=(*changed, *others)))
    levels: tuple[Level, ...] = ("stage", "layer")

    assert first.skip_channels == second.skip_channels == third.skip_channels == 1280
    for text in (
        *(ascii_text(outlined, width=width, level=level) for width in (40, 80, 120) for level in levels),
        *(form(outlined, level=level) for form in (mermaid, dot) for level in levels),
    ):
        assert text.count("1280 (sum, filter)") == 1
        assert text.count("1280 (sum)") == 1
        assert text.count("(sum") == 2


@pytest.mark.parametrize("width", [80, 120])
def test_what_a_controlnet_gives_away_stands_beside_its_size(width: int) -> None:
    """The zero convolutions run from top to bottom, each beside or below the first block of its size, the middle's beside the middle."""
    lines = ascii_text(outline("controlnet-sd15-canny"), width=width).split("\n")
    heights = {
        box.name: next(place for place, line in enumerate(lines) if f" {box.name} " in line)
        for box in outline("controlnet-sd15-canny").boxes
    }
    branches = outline("controlnet-sd15-canny").on("right")

    assert [heights[box.name] for box in branches] == sorted(heights[box.name] for box in branches)
    assert heights["controlnet_down_blocks.0-2"] == heights["conv_in"]
    assert heights["controlnet_down_blocks.4-5"] == heights["down_blocks.1"] + 1
    assert heights["controlnet_down_blocks.9-11"] == heights["down_blocks.3"]
    assert heights["controlnet_mid_block"] == heights["mid_block"]
    assert not any(" out (" in line for line in lines)


def evil_record() -> Trace:
    """A record in which blocks, lists and the model have the worst names, as files that others wrote may."""
    text = traced("conditioned").to_json()
    for name in ("down_blocks", ".resnets", "UNet2DConditionModel"):
        text = text.replace(name, "." * name.startswith(".") + json.dumps(EVIL)[1:-1])
    return Trace.from_json(text)


@pytest.mark.parametrize("width", [20, 80, 120])
@pytest.mark.parametrize("unicode", [False, True])
def test_names_are_shown_not_obeyed(width: int, unicode: bool) -> None:
    """No name can move the cursor, break a line or be wider than the terminal; without Unicode it is written in ASCII."""
    text = terminal(outline_of(evil_record()), level="layer", width=width, unicode=unicode, color=False)

    assert all(char.isprintable() or char == "\n" for char in text)
    assert text.isascii() or unicode
    assert max(map(cells, text.split("\n"))) <= width
    assert r"\x1b[31m" in re.sub(r"\s", "", text)


@pytest.mark.parametrize("width", [40, 80])
def test_colours_change_no_character(width: int) -> None:
    """With colours the text is the same but for ANSI's colour sequences, and each line ends in none that is open."""
    plain = terminal(outline("sd15"), level="layer", width=width, unicode=True, color=False)
    colored = terminal(outline("sd15"), level="layer", width=width, unicode=True, color=True)

    assert colored != plain
    assert re.sub(r"\x1b\[[\d;]*m", "", colored) == plain
    assert all(not line.rpartition("\x1b[0m")[2].count("\x1b") for line in colored.split("\n"))


def test_wide_characters_take_two_columns() -> None:
    """A name in Chinese is folded by the columns that it takes."""
    assert fold("模型模型 x", 6) == ["模型模", "型 x"]


@pytest.mark.parametrize("unicode", [True, False])
def test_golden(unicode: bool, golden) -> None:
    """The picture of SD 1.5 at 80 columns is the one that was looked at."""
    golden(
        f"draw/sd15-80{'' if unicode else '-ascii'}.txt", terminal(outline("sd15"), level="stage", width=80, unicode=unicode, color=False)
    )
