"""A convolution was given other channels than it takes: 4, 8 or 9 for conv_in, 3 for a control image; or too small a sample."""

from __future__ import annotations

import re

from unetinspect.catalog import Entry, load_catalog
from unetinspect.explain.recogniser import NUMBER, Recogniser, Said, Scene, explained, meant, message, shape_of
from unetinspect.record import ErrorExplanation, ModelMatch, Shape
from unetinspect.unets.builder import is_list

_USES = {
    1: "a grey image or a mask",
    3: "an RGB image: pixels, no latents",
    4: "latents of a VAE alone: text-to-image, image-to-image; also an RGBA image",
    5: "latents and a depth map: 4 + 1 (Stable Diffusion 2 depth)",
    6: "two images of 3 channels: latents and the one to enlarge (LDM super-resolution)",
    7: "latents and a small image: 4 + 3 (the x4 upscaler)",
    8: "two latents: 4 + 4 (InstructPix2Pix, Marigold, Zero123, Stable Video Diffusion), or latents of a sound",
    9: "latents, mask and masked latents: 4 + 1 + 4 (inpainting)",
    12: "three latents: 4 + 4 + 4",
    13: "inpainting (9) and another latent (4)",
    16: "latents of a newer VAE (SD3, Flux), or Stable Cascade's",
}
_PIPELINES = {
    4: "StableDiffusionPipeline or StableDiffusionImg2ImgPipeline (SDXL: StableDiffusionXLPipeline)",
    5: "StableDiffusionDepth2ImgPipeline",
    7: "StableDiffusionUpscalePipeline",
    8: "StableDiffusionInstructPix2PixPipeline (or the pipeline of the model: Marigold, Zero123, SVD)",
    9: "StableDiffusionInpaintPipeline (SDXL: StableDiffusionXLInpaintPipeline)",
}
_UNSHUFFLED = 64  # a T2I-Adapter turns each 8 x 8 square of pixels into channels
_CONTROL_CHANNELS = 16
_OTHER_FIRST_LAYER = ("I2VGenXLUNet", "StableCascadeUNet", "UVit2DModel")


def _explain(match: re.Match[str], scene: Scene) -> ErrorExplanation | None:
    weight, given = shape_of(match["weight"]), shape_of(match["given"])
    takes, got = int(match["takes"]), int(match["got"])
    if not weight or not given:
        return None
    return explained(match, scene, _said(weight, given, takes, got))


def _said(weight: Shape, given: Shape, takes: int, got: int) -> Said:
    if _is_last(given, takes):
        return _moved(given, takes, "channels last: (batch, height, width, channels)")
    if len(given) == 5 and given[2] == takes:
        return _moved(given, takes, "frames before channels: (batch, frames, channels, height, width)")
    if takes == 3 * _UNSHUFFLED:
        return _control(
            weight, takes, got, got // _UNSHUFFLED, "a T2I-Adapter's first convolution takes 3 x 64 channels: 8 x 8 pixels each"
        )
    if takes == 3 and weight[0] == _CONTROL_CHANNELS:
        return _control(weight, takes, got, got, "the ControlNet's controlnet_cond_embedding.conv_in takes an RGB image")
    return _conv_in(weight, given, takes, got)


def _is_last(given: Shape, takes: int) -> bool:
    return len(given) == 4 and given[-1] == takes and given[1] > 16 and given[1] != takes


def _conv_in(weight: Shape, given: Shape, takes: int, got: int) -> Said:
    models = _models(weight[0], takes)
    in_unet = models or takes in (4, 5, 7, 8, 9)
    what = "The UNet's conv_in" if in_unet else "A convolution"
    meaning = (
        f"{what} takes {takes} channels ({_use(takes)}), and was given {got} ({_use(got)}). "
        "The number of input channels says what a UNet was trained for: a pipeline that concatenates a mask or an image with the latents "
        "needs "
        "a UNet that was trained so, and such a UNet needs that pipeline."
    )
    numbers = [
        meant(takes, f"channels that it takes (in_channels): {_use(takes)}"),
        meant(got, f"channels that it was given: {_use(got)}"),
        meant(weight, "the convolution's weight: (out_channels, in_channels, kernel)"),
        meant(given, "what it was given: batch, channels, then sides"),
    ]
    others = [ModelMatch(name=name, role=f"takes {got} channels, as given", where=("in_channels", "conv_in")) for name in _named(got)]
    return Said("in_channels", meaning, numbers, [*models, *others], _changes(takes, got))


def _changes(takes: int, got: int) -> list[str]:
    changes = []
    if (takes, got) == (4, 3):
        changes.append("encode the image first: latents = vae.encode(image).latent_dist.sample() * vae.config.scaling_factor")
    if takes == 9 and got == 4:
        changes.append("concatenate the mask and the masked image's latents: torch.cat([latents, mask, masked_image_latents], dim=1)")
    if got in _PIPELINES:
        changes.append(
            f"keep the inputs, change the UNet: {got} channels are what {_PIPELINES[got]} gives; load a UNet that was trained for it"
        )
    if takes in _PIPELINES:
        changes.append(f"keep the UNet, change the pipeline: one of {takes} channels belongs in {_PIPELINES[takes]}")
    if takes == 4 and got == 9:
        changes.append(
            "an inpainting pipeline also runs a 4-channel UNet, where it reads in_channels from unet.config: check that it is 4 there"
        )
    return [*changes, "`unetinspect inputs MODEL` shows in_channels as the sample's second axis; `unetinspect config MODEL` the key"]


def _use(channels: int) -> str:
    return _USES.get(channels, "no number of channels that a published UNet takes" if channels < 64 else "hidden states of a block")


def _models(out: int, takes: int) -> list[ModelMatch]:
    return [
        ModelMatch(name=name, role=f"takes {takes} channels", where=("in_channels", "conv_in"))
        for name in _named(takes)
        if _first_channels(name) == out
    ]


def _with_conv_in() -> list[tuple[str, Entry]]:
    """List the models whose conv_in takes in_channels: some classes add to them before it, or have another first layer."""
    return [(name, entry) for name, entry in load_catalog().items() if entry.class_name not in _OTHER_FIRST_LAYER]


def _named(channels: int) -> list[str]:
    return [name for name, entry in _with_conv_in() if entry.config.get("in_channels") == channels]


def _first_channels(name: str) -> int | None:
    channels = load_catalog()[name].config.get("block_out_channels")
    return channels[0] if is_list(channels) and channels and isinstance(channels[0], int) else None


def _control(weight: Shape, takes: int, got: int, image_channels: int, what: str) -> Said:
    return Said(
        "control_channels",
        f"This is no input of the UNet itself: {what}, and the control image had {image_channels}.",
        [
            meant(takes, "channels taken"),
            meant(got, f"channels given: an image of {image_channels} ({_use(image_channels)})"),
            meant(weight, "weight"),
        ],
        (),
        ['convert the control image: image.convert("RGB")', "`unetinspect inputs CONTROLNET` shows controlnet_cond with its shape"],
    )


def _moved(given: Shape, takes: int, order: str) -> Said:
    return Said(
        "axis_order",
        f"A convolution takes {takes} channels as the second axis, and the tensor that was given has them elsewhere: it is {order}.",
        [meant(given, f"what was given; {takes} is not its second axis"), meant(takes, "channels that the convolution takes")],
        (),
        [
            "move the channels to the second axis: x.permute(0, 3, 1, 2) for images, x.permute(0, 2, 1, 3, 4) for frames",
            "`unetinspect inputs MODEL` names the axes of every input",
        ],
    )


def _explain_pipeline(match: re.Match[str], scene: Scene) -> ErrorExplanation | None:
    """Explain what a pipeline says that has counted the channels itself."""
    takes, got = int(match["takes"]), int(match["got"])
    numbers = [
        meant(takes, f"in_channels of the UNet: {_use(takes)}"),
        meant(got, f"channels that the pipeline puts together: {_use(got)}"),
    ]
    said = Said(
        "in_channels",
        f"The pipeline concatenates inputs to {got} channels ({_use(got)}), and its UNet takes {takes} ({_use(takes)}): the pipeline is "
        "made for "
        "another kind of UNet than the one that was loaded.",
        numbers,
        [
            ModelMatch(name=name, role=f"takes {number} channels", where=("in_channels", "conv_in"))
            for number in (takes, got)
            for name in _named(number)
        ],
        _changes(takes, got),
    )
    return explained(match, scene, said)


def _explain_small(match: re.Match[str], scene: Scene) -> ErrorExplanation | None:
    padded, kernel = shape_of(match["padded"]), shape_of(match["kernel"])
    empty = any(side == 2 for side in padded)
    return explained(
        match,
        scene,
        Said(
            "sample_too_small",
            "A convolution was given a tensor that is smaller than its kernel, padding included: the sample is too small for the number "
            "of times "
            "that the UNet halves it, or one of its axes is not what the UNet takes it for."
            + (" A padded side of 2 is a side of 0 or 1: an empty image, or axes in another order." if empty else ""),
            [meant(padded, "sides of the tensor with padding"), meant(kernel, "sides of the kernel")],
            (),
            [
                "give a larger sample: at least 2 to the number of halvings along each side, 32 for ddpm-cat-256",
                "check the order of the axes: (batch, channels, height, width)",
                "`unetinspect check MODEL --latent HEIGHTxWIDTH` tells whether a sample runs, and the nearest that do",
            ],
        ),
    )


_COUNT = "(?P<takes>[0-9]{1,9})"
_GOT = "(?P<got>[0-9]{1,9})"
_LIST = r"[\[\s](?P<weight>[0-9,\s]{1,80})\]?"
RECOGNISERS = (
    Recogniser(
        message(
            rf"Given groups={NUMBER}, weight(?: of size)?\s?{_LIST}, (?:so )?expected input\s?\[(?P<given>[0-9,\s]{{1,80}})\] "
            rf"to have {_COUNT} channels, but got {_GOT} channels"
        ),
        _explain,
    ),
    Recogniser(message(rf"expects {_COUNT} but received [`'\"]?num_channels_[^=]{{1,300}}= {_GOT}"), _explain_pipeline),
    Recogniser(
        message(r"Calculated padded input size per channel: \((?P<padded>[0-9x\s]{1,60})\)\. Kernel size: \((?P<kernel>[0-9x\s]{1,60})\)"),
        _explain_small,
    ),
)
