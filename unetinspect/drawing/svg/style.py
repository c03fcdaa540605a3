"""The colours of the picture, in light and in dark, and the style sheet that is made of them."""

from __future__ import annotations

FONTS = 'system-ui, "Segoe UI", Helvetica, Arial, "DejaVu Sans", sans-serif'
# What a thing is called, what of it is coloured, its colour in light and in dark.
_COLOURS: tuple[tuple[str, str, str, str], ...] = (
    (".ui-paper", "fill", "#ffffff", "#12171d"),
    ("text", "fill", "#1b2530", "#e7ecf1"),
    (".ui-note", "fill", "#51606f", "#a9b6c3"),
    (".ui-shape", "fill", "#33414f", "#c9d3dc"),
    (".ui-channels", "fill", "#1f4f86", "#9cc7f2"),
    (".ui-frame", "fill", "#f3f5f7", "#1d242c"),
    (".ui-frame", "stroke", "#7f8c99", "#75818e"),
    (".ui-embed .ui-frame", "fill", "#edf6f0", "#172a20"),
    (".ui-embed .ui-frame", "stroke", "#6c9c80", "#5b9474"),
    (".ui-down .ui-frame", "fill", "#e6eff9", "#18293c"),
    (".ui-down .ui-frame", "stroke", "#4f7fb5", "#5a8cc2"),
    (".ui-mid .ui-frame", "fill", "#eeeaf8", "#282240"),
    (".ui-mid .ui-frame", "stroke", "#7a62b3", "#927ecb"),
    (".ui-up .ui-frame", "fill", "#fdf2e2", "#35291a"),
    (".ui-up .ui-frame", "stroke", "#b8842f", "#c2924c"),
    (".ui-given-frame", "fill", "#ffffff", "#12171d"),
    (".ui-given-frame", "stroke", "#7f8c99", "#75818e"),
    (".ui-row", "fill", "#ffffff", "#12171d"),
    (".ui-flow-line", "stroke", "#33414f", "#c9d3dc"),
    (".ui-flow-head", "fill", "#33414f", "#c9d3dc"),
    (".ui-skip-line", "stroke", "#4f7fb5", "#6fa5dd"),
    (".ui-skip-head", "fill", "#4f7fb5", "#6fa5dd"),
    (".ui-badge", "fill", "#ffffff", "#12171d"),
    (".ui-badge", "stroke", "#33414f", "#c9d3dc"),
    (".ui-badge-self .ui-badge", "fill", "#33414f", "#c9d3dc"),
    (".ui-badge-self text", "fill", "#ffffff", "#12171d"),
)
# What is the same in both: kinds are told by lines, too, for those who print in black and white.
_SHAPES = (
    f".ui-svg text {{ font-family: {FONTS}; font-variant-numeric: tabular-nums; text-rendering: geometricPrecision }}",
    ".ui-svg .ui-bold { font-weight: 700 }",
    ".ui-svg .ui-middle { text-anchor: middle }",
    ".ui-svg .ui-end { text-anchor: end }",
    ".ui-svg .ui-frame { stroke-width: 1.2 }",
    ".ui-svg .ui-mid .ui-frame { stroke-width: 2 }",
    ".ui-svg .ui-given-frame { stroke-dasharray: 3 2 }",
    ".ui-svg .ui-row { fill-opacity: 0.75 }",
    ".ui-svg .ui-flow-line { fill: none; stroke-width: 2.2; stroke-linejoin: round }",
    ".ui-svg .ui-skip-line { fill: none; stroke-width: 1.2 }",
    ".ui-svg .ui-badge { stroke-width: 1 }",
    ".ui-svg .ui-badge-temporal .ui-badge { stroke-dasharray: 4 2 }",
    ".ui-svg .ui-badge-joint .ui-badge { stroke-width: 2 }",
    ".ui-svg .ui-badge-pooling .ui-badge { stroke-dasharray: 1.5 2 }",
)
_INTERACTIVE = (
    ".ui-svg .ui-hit { fill: none; stroke: transparent; stroke-width: 11; pointer-events: stroke }",
    ".ui-svg [tabindex] { cursor: pointer }",
)


def style_sheet(*, interactive: bool) -> str:
    """Return the style sheet of a picture. Every rule is below `.ui-svg`, so that a page around it is left alone."""
    rules = [*_SHAPES, *(_INTERACTIVE if interactive else ()), *_rules(dark=False)]
    dark = "\n".join(_rules(dark=True))
    return "\n".join(rules) + "\n@media (prefers-color-scheme: dark) {\n" + dark + "\n}"


def colours(*, dark: bool) -> dict[tuple[str, str], str]:
    """Return the colour of each (selector, property)."""
    return {(selector, prop): (night if dark else day) for selector, prop, day, night in _COLOURS}


def _rules(*, dark: bool) -> list[str]:
    return [f".ui-svg {selector} {{ {prop}: {colour} }}" for (selector, prop), colour in colours(dark=dark).items()]
