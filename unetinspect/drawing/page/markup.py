"""HTML elements as text. Whatever is put into one is escaped, unless it is an element itself: data can never become markup."""

from __future__ import annotations

import json
from html import escape
from typing import Any

from unetinspect.units import visible

_EMPTY = frozenset({"meta", "link", "input"})


class Markup(str):
    """Text that is HTML already; any other text is escaped where it is put into an element."""

    __slots__ = ()


def tag(name: str, /, *inside: str, **attributes: str | int | bool | None) -> Markup:
    """Write an element with its content; None and False leave an attribute out, True writes it alone.

    A trailing underscore is dropped from an attribute's name, others in it become dashes.

    >>> tag("td", "a < b", class_="number", data_value=3, hidden=False)
    '<td class="number" data-value="3">a &lt; b</td>'
    """
    opened = f"<{name}"
    for key, value in attributes.items():
        attribute = key.removesuffix("_").replace("_", "-")
        if value is True:
            opened += f" {attribute}"
        elif value is not None and value is not False:
            opened += f' {attribute}="{escape(shown(str(value)))}"'
    opened += ">"
    return Markup(opened if name in _EMPTY else f"{opened}{joined(*inside)}</{name}>")


def joined(*parts: str) -> Markup:
    """Concatenate elements and texts.

    >>> joined(tag("b", "x"), " & y")
    '<b>x</b> &amp; y'
    """
    return Markup("".join(part if isinstance(part, Markup) else escape(shown(part), quote=False) for part in parts))


def shown(text: str) -> str:
    r"""Escape control characters as Python does, and halves of surrogate pairs, which UTF-8 cannot encode.

    >>> shown("a\udc80\u2028b")
    'a\\udc80\\u2028b'
    """
    return text if text.isprintable() else visible(text.encode(errors="backslashreplace").decode(), keep_lines=True)


def script_json(value: Any) -> Markup:
    r"""Write JSON so that no text in it can end the script around it: `<`, `>`, `&` and all beyond ASCII are escaped.

    >>> script_json(["</script>"])
    '["\\u003c/script\\u003e"]'
    """
    text = json.dumps(value, separators=(",", ":"), ensure_ascii=True)
    return Markup(text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e"))
