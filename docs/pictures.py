"""Draw the pictures of README and docs with the tool itself, as self-contained SVG, and heat maps as PNG.

    python docs/pictures.py

`make docs` runs it; tests compare each picture and the gallery with what the code draws now.
"""

from __future__ import annotations

import io
import re
from pathlib import Path

import numpy as np
import torch
from diffusers import UNet2DConditionModel
from PIL import Image, ImageDraw
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
HEAT = "heat-maps.png"

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


def scene() -> Image.Image:
    """Draw a ball, a tree and a box."""
    image = Image.new("RGB", (960, 960), "#d9d9d9")
    draw = ImageDraw.Draw(image)
    draw.rectangle((0, 690, 960, 960), fill="#bdbdbd")
    draw.polygon([(690, 96), (900, 595), (480, 595)], fill="#2e9e4f")
    draw.rectangle((662, 595, 720, 730), fill="#6b6b6b")
    draw.ellipse((96, 480, 403, 787), fill="#d8402f")
    draw.rectangle((557, 672, 806, 883), fill="#2f62c9")
    return image.resize((240, 240), Image.Resampling.LANCZOS)


def color_unet() -> UNet2DConditionModel:
    """Build a UNet in whose only cross-attention layer the queries are the hues of pixels: its weights are set by hand."""
    unet = UNet2DConditionModel(
        in_channels=3,
        out_channels=3,
        block_out_channels=(3,),
        down_block_types=("CrossAttnDownBlock2D",),
        mid_block_type=None,
        up_block_types=("UpBlock2D",),
        layers_per_block=1,
        norm_num_groups=1,
        attention_head_dim=1,
        cross_attention_dim=3,
    )
    for name, parameter in unet.named_parameters():
        parameter.data.fill_("norm" in name and name.endswith("weight"))
    transformer = unet.down_blocks[0].attentions[0]
    attention = transformer.transformer_blocks[0].attn2
    unet.conv_in.weight.data[:, :, 1, 1] = torch.eye(3)
    transformer.proj_in.weight.data[:, :, 0, 0] = torch.eye(3)
    attention.to_q.weight.data += 1.8 * torch.eye(3)
    attention.to_k.weight.data += 1.8 * torch.eye(3)
    return unet


def heat_maps() -> Image.Image:
    """Draw the scene, and over it where its hues attend to red, green and blue: the words ball, tree and box."""
    image = scene()
    pixels = np.asarray(image.resize((24, 24), Image.Resampling.BOX), np.float32)
    sample = torch.tensor(pixels).permute(2, 0, 1)[None] / 127.5 - 1
    words = torch.cat([1.5 * torch.eye(3) - 0.5, torch.zeros(5, 3)])[None]  # (batch, token, color): red, green, blue, and no color
    unet = color_unet()
    with torch.no_grad(), unetinspect.capture(unet, unetinspect.maps(kind="cross")) as seen:
        unet(sample, 0, words)
    panels = [image, *(seen.heat(token).picture(image) for token in range(3))]
    sheet = Image.new("RGB", (len(panels) * 248 - 8, 240), "white")
    for place, panel in enumerate(panels):
        sheet.paste(panel, (place * 248, 0))
    return sheet


def main() -> None:
    """Write every picture and the gallery page."""
    PICTURES.mkdir(exist_ok=True)
    (PICTURES.parent / "gallery.md").write_text(gallery(), encoding="utf-8")
    (PICTURES / f"{TABLE}.svg").write_text(table(), encoding="utf-8")
    heat_maps().save(PICTURES / HEAT, optimize=True)
    for name, (model, level, layout) in drawings().items():
        (PICTURES / f"{name}.svg").write_text(draw(unetinspect.trace(model, device="meta"), level, layout), encoding="utf-8")


if __name__ == "__main__":
    main()
