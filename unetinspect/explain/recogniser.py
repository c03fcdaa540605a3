"""What a recogniser is: the pattern of a message, and what explains it there; and what stands around a message."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cache
from typing import NamedTuple

from unetinspect.explain.text import Frame
from unetinspect.record import ErrorExplanation, Shape

# What only texts about diffusion UNets hold; a "unet" alone may be one that segments images.
_OF_UNETS = re.compile(
    r"diffusers|\bldm\b|\bsgm\b|stable.?diffusion|\bsdxl|\bsd ?(?:1\.?5|2\.?1|xl)\b|animatediff|controlnet|t2i.?adapter|"
    r"ip.?adapter|unet[123]d|unet_?(?:spatio|motion|condition|stable)|unet_[123]d|motion_module|lora_unet|text.to.image|kohya|"
    r"(?:down_blocks|up_blocks|mid_block|input_blocks|output_blocks|middle_block)\b|encoder_hidden_states|transformer_2d",
    re.IGNORECASE,
)
# ComfyUI runs models of every kind.
_COMFYUI = re.compile("comfy|ksampler", re.IGNORECASE)
# Other models that diffusers and tools run: transformers, whose blocks are not a UNet's.
_TRANSFORMERS = re.compile(
    r"models/transformers/(?!transformer_2d|transformer_temporal|dual)|mmdit|\bdit\b|"
    r"/(?:flux|hunyuan|wan|lightricks|ltx|aura|cosmos|genmo|mochi|pixart|hydit|lumina|chroma|qwen|sd3|cogvideo)[\w-]*(?:/|\.py)",
    re.IGNORECASE,
)
_VAE = re.compile(r"autoencoder|/vae|_vae|diffusionmodules/model\.py|consistency_decoder|taesd", re.IGNORECASE)


def of_unets(text: str) -> bool:
    """Whether a text has words that only texts about diffusion UNets have."""
    return _OF_UNETS.search(text) is not None


class Scene(NamedTuple):
    """What stands around a message in the text.

    Attributes:
        nearby: The text before it, as far as the message before; or behind it, where a tool prints the message first.
        frames: The frames of its traceback, outermost first.
        code: The code that the innermost frame of diffusers, or of a tool that runs UNets, shows; without frames, the text on both sides.
    """

    nearby: str = ""
    frames: tuple[Frame, ...] = ()
    code: str = ""

    @property
    def module(self) -> str | None:
        """The innermost module and function of diffusers, or else of a tool that runs UNets, in the traceback."""
        at_home = [frame for frame in self.frames if frame.home is not None]
        of_diffusers = [frame for frame in at_home if frame.home == "diffusers"]
        return next((frame.written for frame in reversed(of_diffusers or at_home)), None)

    @property
    def places(self) -> tuple[str, ...]:
        """The frames of diffusers, outermost first, as "attention_processor.__call__"."""
        return tuple(frame.place for frame in self.frames if frame.home == "diffusers")

    @property
    def part(self) -> str:
        """What raised the error, as its innermost frame says: "VAE", "other" for another library or program, "UNet", or ""."""
        known = of_unets(self.nearby)
        if not self.frames:
            return "UNet" if known else ""
        innermost = self.frames[-1]
        if any(_TRANSFORMERS.search(frame.path) for frame in self.frames):
            return "other"
        if any(frame.home is not None and _VAE.search(frame.path) for frame in self.frames[-2:]):
            return "VAE"
        library = re.search(r".*(?:site|dist)-packages/(\w+)/", innermost.path)
        if innermost.home is None and (library is not None or not (known or _COMFYUI.search(self.nearby))):
            return "other"
        return "UNet" if known or innermost.home is not None else ""


class Recogniser(NamedTuple):
    """One message, and how to explain it.

    Attributes:
        word: What every such message holds: where the text does not, the pattern is not even compiled.
        pattern: The message as a regular expression.
        explain: Returns None where what stands around the message says that it is another error.
    """

    word: str
    pattern: str | re.Pattern[str]
    explain: Callable[[re.Match[str], Scene], ErrorExplanation | None]


@cache
def message(text: str) -> re.Pattern[str]:
    r"""Compile the pattern of a message, in which a line may break at any space.

    Every repetition in it must have an upper bound, so that no text can make it slow.

    >>> bool(message("Expected size [0-9]{1,12} but got").search("Expected size 24\n  but got"))
    True
    """
    return re.compile(text.replace(" ", r"\s{1,9}"))


def shape_of(text: str) -> Shape:
    """Read the numbers of a shape as a message writes it.

    >>> shape_of("320, 4, 3, 3"), shape_of("2,")
    ((320, 4, 3, 3), (2,))
    """
    return tuple(int(number) for number in re.findall(r"[0-9]{1,12}", text))
