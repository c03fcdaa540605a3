"""Tensors that are concatenated do not fit: a skip at an odd size, or inputs of two sizes, batches or lengths."""

from __future__ import annotations

import re
from collections.abc import Iterator

from unetinspect.explain.recogniser import NUMBER, Recogniser, Said, Scene, explained, meant, message
from unetinspect.explain.skip_sides import Sides, rigid_models, sides_to
from unetinspect.record import ErrorExplanation, ModelMatch

_CHANNELS = 1
_LEVELS_OF_LATENT_UNETS = 3


def _explain(match: re.Match[str], scene: Scene) -> ErrorExplanation | None:
    axis, expected, got = (int(match[name]) for name in ("axis", "expected", "got"))
    if axis == _CHANNELS and abs(expected - got) == 1 and min(expected, got) > 0 and got % 2:
        return explained(match, scene, _skip(expected, got, scene))
    return explained(match, scene, _other(axis, expected, got, scene))


def _skip(expected: int, got: int, scene: Scene) -> Said:
    rounded = "up" if expected > got else "down"
    meaning = (
        "On its way up the UNet concatenates hidden states with a skip, along the channels; here the hidden states have a side of "
        f"{expected} "
        f"and the skip one of {got}. On the way down {got} was halved and rounded {rounded} to {expected // 2}, and doubling that gives "
        f"{expected}: the sample's side is no multiple of 2 to the number of halvings. UNet2DConditionModel passes the skips' size on "
        "(upsample_size) and takes any; UNet2DModel, simple cross-attention blocks (DeepFloyd IF, Kandinsky 2) and the code that "
        "Stable Diffusion was first published with do not."
    )
    numbers = [
        meant(expected, "side of the hidden states, after doubling"),
        meant(got, "side of the skip, odd"),
        *(
            meant(
                2**halvings,
                f"what a UNet with {halvings} halvings needs a multiple of; sides of the sample that lead here: {_written(sides)}",
            )
            for halvings in range(1, 7)
            if (sides := sides_to(expected, got, halvings))
        ),
    ]
    return Said("skip_size", meaning, numbers, _rigid(expected, got), list(_skip_changes(expected, got, scene)))


def _written(found: tuple[Sides, ...]) -> str:
    return ", ".join(f"{sides.first} to {sides.last}" if sides.first != sides.last else str(sides.first) for sides in found)


def _rigid(expected: int, got: int) -> Iterator[ModelMatch]:
    """Yield the models in which some side leads there, with the nearest sides that run."""
    for entry, halvings, rounds_up in rigid_models():
        found = sides_to(expected, got, halvings) if rounds_up == (expected > got) else ()
        if found:
            near = sorted({side for sides in found for side in (sides.below, sides.above) if side})
            yield ModelMatch(
                name=entry.name,
                role=f"a side of {_written(found)} leads there; {', '.join(map(str, near))} run",
                where=(f"{halvings} halvings: multiples of {2**halvings}", f"{entry.class_name} passes on no upsample_size"),
            )


def _skip_changes(expected: int, got: int, scene: Scene) -> Iterator[str]:
    yield "give the sample sides that are multiples of 2 to the number of halvings (levels of block_out_channels - 1): pad or resize first"
    yield (
        f"for a latent UNet with {_LEVELS_OF_LATENT_UNETS} halvings and a VAE factor of 8 that is 64 pixels: 512, 576, 640, ... "
        "(8 x 2^3); with 2 halvings, as SDXL, 32 pixels"
    )
    yield "`unetinspect check MODEL --res HEIGHTxWIDTH` runs a size without weights, and names the nearest ones that do run"
    if scene.shows("controlnet", "ControlNet", "adapter", "deepcache", "DeepCache", "freeu"):
        yield "a ControlNet, an adapter or a cache that changes the skips must be run at the same size as the UNet"


def _other(axis: int, expected: int, got: int, scene: Scene) -> Said:
    if axis == _CHANNELS:
        return _sizes(expected, got)
    if axis == 0 or {expected, got} & {77, 154, 231} or "prompt" in scene.nearby:
        return _tokens(axis, expected, got)
    return Said(
        "concat_size",
        f"Tensors are concatenated along dimension {axis}, where all their other sides must be equal: one has {expected}, another {got}. "
        "In a video UNet dimension 2 counts frames; in attention it counts tokens, height times width of the block's hidden states.",
        [meant(expected, "a side of the first tensor"), meant(got, "the same side of another")],
        (),
        [
            "give every input (sample, image latents, mask, reference) the same batch, height, width and number of frames",
            "`unetinspect inputs MODEL` shows the shape of each input, axis by axis",
        ],
    )


def _sizes(expected: int, got: int) -> Said:
    least = min(expected, got)
    ratio = f", {max(expected, got) // least} times as many" if least and max(expected, got) % least == 0 else ""
    batch = max(expected, got) <= 8 and ratio != ""
    return Said(
        "batch_size" if batch else "concat_size",
        "Tensors are concatenated along the channels, and all their other sides must be equal: "
        f"one has {expected}, another {got}{ratio}. "
        + (
            "So small numbers are most likely batches: CFG doubles the batch, and something was not doubled with it."
            if batch
            else "Most likely two images are of different sizes: the latents and what is concatenated with them (a mask, an image to edit, "
            "a depth map), or the hidden states and a skip that a ControlNet, a cache or hires-fix has changed."
        ),
        [meant(expected, "side of the first tensor"), meant(got, "side of another")],
        (),
        [
            "repeat what is concatenated as often as the latents: torch.cat([x] * 2) where guidance_scale is above 1"
            if batch
            else "resize every image to one size before it is encoded: image, mask and control image alike; latents are 1/8 of the pixels",
            "`unetinspect inputs MODEL --res HEIGHTxWIDTH` shows the shape of each input at a size",
            "`unetinspect check MODEL --res HEIGHTxWIDTH` tells whether the UNet alone runs at it",
        ],
    )


def _tokens(axis: int, expected: int, got: int) -> Said:
    return Said(
        "token_count",
        f"Tensors are concatenated along dimension {axis} and differ in another: {expected} and {got}. For CFG the negative prompt's "
        "embeddings are put before the prompt's along the batch, so that both need the same number of tokens and the same width.",
        [
            meant(expected, "side of the first tensor, most likely the negative prompt's"),
            meant(got, "side of the second, most likely the prompt's"),
        ],
        (),
        [
            "make prompt_embeds and negative_prompt_embeds equally long: pad the shorter prompt to the longer one's chunks of 77 tokens",
            "compute both with the same text encoder",
        ],
    )


_MUST = r"Sizes of tensors must match except in dimension (?P<axis>[0-9]{1,2})\."
_GIVEN = r"(?P<expected>[0-9]{1,12})"
_OTHER = r"(?P<got>[0-9]{1,12})"
RECOGNISERS = (
    Recogniser(message(rf"{_MUST} Expected size {_GIVEN} but got size {_OTHER} for tensor number {NUMBER} in the list"), _explain),
    Recogniser(
        message(rf"{_MUST} Expected {_GIVEN} in dimension {NUMBER} but got {_OTHER} for tensor number {NUMBER} in the list"), _explain
    ),
    Recogniser(message(rf"{_MUST} Got {_GIVEN} and {_OTHER} in dimension {NUMBER}"), _explain),
    Recogniser(message(rf"{_MUST} Expected size {_GIVEN} but got size {_OTHER}"), _explain),
)
