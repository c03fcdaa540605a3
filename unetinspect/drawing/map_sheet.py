"""Captured maps as one picture: a row for each layer, a column for each word or token."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterator, Mapping, Sequence
from io import BytesIO
from typing import TYPE_CHECKING, NamedTuple
from xml.sax.saxutils import escape, quoteattr

from unetinspect.capturing.captured import Captured, Captures, with_tensors
from unetinspect.capturing.heat import colored, pictures_of
from unetinspect.capturing.words import Prompt, choose_prompt, positions_of
from unetinspect.drawing.png import png
from unetinspect.drawing.svg import FONTS
from unetinspect.drawing.text_width import shortened, text_width
from unetinspect.errors import UsageError
from unetinspect.units import format_size, plural, visible

if TYPE_CHECKING:
    from unetinspect.capturing.heat import Floats

# Tokens that are drawn unless others are asked for.
_MOST_TOKENS = 16
_CELL, _GAP, _LINE, _SIZE = 88, 8, 14, 11
# Width / height of a page.
_PAGE = 0.75
# Above this, a PNG has less than two pixels to a unit.
_MOST_PIXELS = 60e6
_NOTE = "dark is 0, light the maximum of the picture (below it); kept steps and heads are averaged"


class MapRow(NamedTuple):
    """A captured map, and the pictures of it by label, (height, width) each."""

    seen: Captured
    pictures: dict[str, Floats]


def draw_maps(path: str, captures: Captures, tokens: Sequence[str] | None, *, prompt: int | None, image: int | None) -> list[MapRow]:
    """Read the maps of a file one after another, and make pictures of them; those that are not an image are left out.

    Args:
        path: The file.
        captures: What `read_capture` returned for it, or a part of that.
        tokens: Words, phrases and positions to draw; None: the words of the prompt, or the first tokens.
        prompt: Which prompt the words are of; None: there is one.
        image: Which image of the batch; None: there is one.

    Raises:
        UsageError: A word, token, prompt or image was not captured, or it is ambiguous; or there is nothing to draw.
        SourceError: The file is damaged.
    """
    asked = None
    if tokens is not None:
        asked = {token: positions_of(captures.prompts, int(token) if token.isdecimal() else token, prompt=prompt) for token in tokens}
    words = _words(choose_prompt(captures.prompts, prompt))
    rows = []
    for stored in captures.maps:
        (seen,) = with_tensors(path, [stored])
        columns = (asked or words) if seen.product == 0 else {}  # the tokens of an image adapter are not words
        kept = {word: held for word, held in columns.items() if asked or set(held) <= set(seen.kept_tokens)}
        pictures = pictures_of(seen, kept or {f"token {token}": [token] for token in seen.kept_tokens[:_MOST_TOKENS]}, image)
        if pictures:
            rows.append(MapRow(seen, pictures))
    if not rows:
        raise UsageError("none of these maps can be drawn", hint="a picture needs all queries of an image: capture with queries=None")
    return rows


def _words(prompts: Sequence[Prompt]) -> Mapping[str, Sequence[int]]:
    """Return the words of the only prompt that has any, with their positions; empty: there are several."""
    worded = [prompt for prompt in dict.fromkeys(prompts) if prompt.words]
    return {word: worded[0].find(word) for word in worded[0].words[:_MOST_TOKENS]} if len(worded) == 1 else {}


def map_sheet(rows: Sequence[MapRow], *, form: str) -> bytes:
    """Draw maps as "png" or "svg"; rows with the same columns are together, in strips, each under a line of labels."""
    titles = {row.seen: _titles(row.seen) for row in rows}
    left = max(text_width(line, _SIZE, bold=not place) for lines in titles.values() for place, line in enumerate(lines)) + 3 * _GAP
    strip = left + max(len(row.pictures) for row in rows) * (_CELL + _GAP) + _GAP
    groups: dict[tuple[str, ...], list[MapRow]] = {}
    for row in rows:
        groups.setdefault(tuple(row.pictures), []).append(row)
    # So many strips beside each other that the sheet is about as wide and high as a page.
    strips = min(max(map(len, groups.values())), max(1, round((_PAGE * sum(map(_height, rows)) / strip) ** 0.5)))
    width = max(strips * strip, text_width(_NOTE, _SIZE) + 2 * _GAP)
    body, top = list[str](), float(_GAP)
    for labels, group in groups.items():
        each, lowest = -(-len(group) // strips), top
        for number, start in enumerate(range(0, len(group), each)):
            x, y = number * strip, top + _LINE
            for place, label in enumerate(labels):
                short = shortened(visible(label), _CELL, _SIZE, bold=True)
                body.append(_text(x + left + place * (_CELL + _GAP) + _CELL / 2, y, short, bold=True, middle=True))
            y += _GAP
            for row in group[start : start + each]:
                body += [_text(x + _GAP, y + (place + 1) * _LINE, line, bold=place == 0) for place, line in enumerate(titles[row.seen])]
                for place, array in enumerate(row.pictures.values()):
                    body += _cell(x + left + place * (_CELL + _GAP), y, array)
                y += _height(row)
            lowest = max(lowest, y)
        top = lowest
    height = top + _LINE
    body.append(_text(_GAP, height - _GAP, _NOTE))
    svg = f"""\
<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height:.0f}" width="{width:.0f}" height="{height:.0f}" \
font-family={quoteattr(FONTS)} font-size="{_SIZE}" fill="#1b2530">
<title>{plural(len(rows), "attention map")}</title>
<rect width="100%" height="100%" fill="#ffffff"/>
{chr(10).join(body)}
</svg>
"""
    return svg.encode() if form == "svg" else png(svg, scale=min(2, (_MOST_PIXELS / (width * height)) ** 0.5))


def _height(row: MapRow) -> float:
    """Return the height of a row, with the maxima below its pictures."""
    height, across = next(iter(row.pictures.values())).shape
    tall: float = max(_CELL * height / max(height, across), 2 * _LINE)
    return tall + 2 * _LINE


def _titles(seen: Captured) -> list[str]:
    """Return the lines beside a row."""
    more = {"image adapter": seen.product, "execution": seen.execution}
    kind = ", ".join([f"{seen.kind} {format_size(seen.grid)}", *(f"{name} {number}" for name, number in more.items() if number)])
    return [visible(line) for line in (seen.stage, seen.path.removeprefix(f"{seen.stage}."), kind)]


def _cell(x: float, y: float, array: Floats) -> Iterator[str]:
    """Yield a picture, its values enlarged to squares, and its maximum below it."""
    height, width = array.shape
    side = max(height, width)
    square = -(-2 * _CELL // side)
    content = BytesIO()
    colored(array).resize((width * square, height * square), resample=0).save(content, "png")
    shown, tall = _CELL * width / side, _CELL * height / side
    yield (
        f'<image x="{x + (_CELL - shown) / 2:.2f}" y="{y:.2f}" width="{shown:.2f}" height="{tall:.2f}" '
        f'href="data:image/png;base64,{b64encode(content.getvalue()).decode()}"/>'
    )
    yield _text(x + _CELL / 2, y + tall + _LINE - 2, f"{array.max():.3g}", middle=True)


def _text(x: float, y: float, content: str, *, bold: bool = False, middle: bool = False) -> str:
    style = ' font-weight="700"' * bold + ' text-anchor="middle"' * middle
    return f'<text x="{x:.2f}" y="{y:.2f}"{style}>{escape(content)}</text>'
