"""Draw the pictures of README and docs with the tool itself, as self-contained SVG.

    python docs/pictures.py

`make docs` runs it; tests compare each picture and the gallery with what the code draws now.
"""

from __future__ import annotations

import io
import re
from pathlib import Path

from rich._export_format import CONSOLE_SVG_FORMAT
from rich.console import Console
from rich.text import Text

import unetinspect
from unetinspect.catalog import load_catalog
from unetinspect.drawing.outline import Layout, Level
from unetinspect.views.render import Screen, render_table
from unetinspect.views.skips import skips_table

PICTURES = Path(__file__).parent / "pictures"
TABLE = "skips-sd15"
COMMAND = "unetinspect skips sd15"
WIDTH = 80

# One model of each family in the catalog.
GALLERY = {
    "AnimateDiff": "animatediff-sd15-v3",
    "AudioLDM": "audioldm2",
    "Consistency Models": "cd-imagenet64",
    "ControlNet": "controlnet-sd15-canny",
    "DDPM": "ddpm-cat-256",
    "Dance Diffusion": "maestro-150k",
    "DeepFloyd IF": "if-i-xl",
    "I2VGen-XL": "i2vgen-xl",
    "Kandinsky 2": "kandinsky-2-2",
    "Kandinsky 3": "kandinsky-3",
    "Latent Diffusion": "ldm-celebahq-256",
    "ModelScope": "text-to-video-ms-1.7b",
    "Reinforcement learning": "hopper-medium-v2-value-function",
    "Score SDE": "ncsnpp-church-256",
    "Stable Cascade": "stable-cascade-decoder",
    "Stable Diffusion 1": "sd15",
    "Stable Diffusion 2": "sd21",
    "Stable Diffusion XL": "sdxl",
    "Stable Video Diffusion": "svd-xt",
    "aMUSEd": "amused-512",
    "unCLIP": "karlo-decoder",
}
# Models that are also drawn layer by layer or in the other layouts, and models outside the gallery.
LAYERS = ("ddpm-cat-256",)
LAYOUTS: dict[str, tuple[str, Level, Layout]] = {"sd15-wide": ("sd15", "stage", "wide"), "sd15-compact": ("sd15", "stage", "compact")}
ALSO = ("bk-sdm-tiny",)

# Rich links fonts from a server; without them the viewer's own fonts are used.
TEMPLATE = re.sub(r"@font-face \{\{.*?\}\}", "", CONSOLE_SVG_FORMAT, flags=re.DOTALL)


def table() -> str:
    """Return the output of a command as SVG, the same on every machine."""
    text, _ = render_table(skips_table(unetinspect.trace("sd15", device="meta")), Screen(width=WIDTH, color=True))
    console = Console(record=True, width=WIDTH, file=io.StringIO(), force_terminal=True)
    console.print(Text.from_ansi(text.rstrip("\n")), soft_wrap=True)
    svg = console.export_svg(title=COMMAND, code_format=TEMPLATE, unique_id="unetinspect")
    return "\n".join(line.rstrip() for line in svg.splitlines()) + "\n"


def drawings() -> dict[str, tuple[str, Level, Layout]]:
    """Return the model, the level and the layout of each drawing, by its name."""
    stages: dict[str, tuple[str, Level, Layout]] = {name: (name, "stage", "tall") for name in (*GALLERY.values(), *ALSO)}
    return {**stages, **LAYOUTS, **{f"{name}-layers": (name, "layer", "tall") for name in LAYERS}}


def draw(record: unetinspect.Trace, level: Level, layout: Layout) -> str:
    """Return the picture of a record as SVG."""
    return record.draw(level=level, layout=layout).svg()


def gallery() -> str:
    """Return the gallery page: one model of each family."""
    intro = (
        "One UNet of each family in the [catalog](models.md), drawn by `unetinspect draw NAME -o NAME.svg` at its default size,\n"
        "each at its own scale. [draw](draw.md) explains how to read the pictures."
    )
    parts = ["# Gallery", intro]
    for family, name in GALLERY.items():
        entry = load_catalog()[name]
        parts += [f"## {family}", f"`{name}`: {entry.title}", f"![{name}, drawn]({PICTURES.name}/{name}.svg)"]
    return "\n\n".join(parts) + "\n"


def main() -> None:
    """Write every picture and the gallery page."""
    PICTURES.mkdir(exist_ok=True)
    (PICTURES.parent / "gallery.md").write_text(gallery(), encoding="utf-8")
    (PICTURES / f"{TABLE}.svg").write_text(table(), encoding="utf-8")
    for name, (model, level, layout) in drawings().items():
        (PICTURES / f"{name}.svg").write_text(draw(unetinspect.trace(model, device="meta"), level, layout), encoding="utf-8")


if __name__ == "__main__":
    main()
