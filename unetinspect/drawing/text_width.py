"""How wide a text is at most, in any sans-serif font that a reader may have.

No font is shipped, so a picture is laid out for the widest.
"""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache

from unetinspect.units import in_lines

# fmt: off
# Advance widths per 1000 em of " " to "~": the wider of DejaVu Sans and Arial, character by character.
_PLAIN = (
    318, 401, 460, 838, 636, 950, 780, 275, 390, 390, 500, 838, 318, 361, 318, 337, 636, 636, 636, 636, 636, 636, 636, 636,
    636, 636, 337, 337, 838, 838, 838, 556, 1015, 684, 686, 722, 770, 667, 611, 778, 752, 295, 500, 667, 557, 863, 748, 787,
    667, 787, 722, 667, 611, 732, 684, 989, 685, 667, 685, 390, 337, 390, 838, 556, 500, 613, 635, 550, 635, 615, 352, 635,
    634, 278, 278, 579, 278, 974, 634, 612, 635, 635, 411, 521, 392, 634, 592, 818, 592, 592, 525, 636, 337, 636, 838,
)
_BOLD = (
    348, 456, 521, 838, 696, 1002, 872, 306, 457, 457, 523, 838, 380, 415, 380, 365, 696, 696, 696, 696, 696, 696, 696, 696,
    696, 696, 400, 400, 838, 838, 838, 611, 1000, 774, 762, 734, 830, 683, 683, 821, 837, 372, 556, 775, 637, 995, 837, 850,
    733, 850, 770, 720, 682, 812, 774, 1103, 771, 724, 725, 457, 365, 457, 838, 556, 500, 675, 716, 593, 716, 678, 435, 716,
    712, 343, 343, 665, 343, 1042, 712, 687, 716, 716, 493, 595, 478, 712, 652, 924, 645, 652, 582, 712, 365, 712, 838,
)
# fmt: on
TIMES, ELLIPSIS = "\N{MULTIPLICATION SIGN}", "…"
_SYMBOLS = {TIMES: 838, "→": 1000, "·": 380, ELLIPSIS: 1000}
_PLAIN_WIDTHS, _BOLD_WIDTHS = ({**{chr(32 + place): width for place, width in enumerate(table)}, **_SYMBOLS} for table in (_PLAIN, _BOLD))
# A letter of another script, and a sign that is drawn as wide as it is high: bounds that no common font passes.
_OTHER, _FULL = 1050, 1400

# A space where a text may be broken: not beside a plus sign, nor after a number, whose noun follows.
_BREAK = re.compile(r"(?<![+\d]) (?!\+)")


@lru_cache(maxsize=4096)
def text_width(text: str, size: float, *, bold: bool = False) -> float:
    """Return an upper bound of a text's width, in the units of `size`, its font size.

    >>> text_width("320", 10), text_width("320", 10, bold=True)
    (19.08, 20.88)
    """
    widths = _BOLD_WIDTHS if bold else _PLAIN_WIDTHS
    return sum([widths.get(char) or _advance(char) for char in text]) * size / 1000


def shortened(text: str, room: float, size: float, *, bold: bool = False) -> str:
    """Return a text that fits into `room`: whole, or its start and its end with an ellipsis between.

    >>> shortened("down_blocks.0", 100, 10), shortened("down_blocks.0", 50, 10)
    ('down_blocks.0', 'dow…s.0')
    """
    if text_width(text, size, bold=bold) <= room:
        return text
    shown = min(len(text), int(room / (size * 0.25)))
    while shown > 0:
        head, tail = (shown + 1) // 2, shown // 2
        short = text[:head] + ELLIPSIS + text[len(text) - tail :]
        if text_width(short, size, bold=bold) <= room:
            return short
        shown -= 1
    return ELLIPSIS


def wrapped(text: str, room: float, size: float) -> list[str]:
    """Return a text in lines that fit into `room`, broken at spaces; inside a sum that fits into a line it is not broken.

    A word that does not fit is shortened.

    >>> wrapped("32 layers: 16 self + 16 cross", 100, 10), wrapped("16 self + 16 cross", 80, 10)
    (['32 layers:', '16 self + 16 cross'], ['16 self + 16', 'cross'])
    """
    parts = _BREAK.split(text)
    split = (word for part in parts for word in ([part] if text_width(part, size) <= room else part.split(" ")))
    words = (shortened(word, room, size) for word in split)
    return [" ".join(line) for line in in_lines(words, lambda line: text_width(" ".join(line), size) <= room)]


def _advance(char: str) -> int:
    return _OTHER if unicodedata.category(char).startswith("L") and unicodedata.east_asian_width(char) in "NA" else _FULL
