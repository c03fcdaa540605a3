"""Which UNet classes there is a builder for. A new class is one subclass of `Builder` in a file beside this one."""

from __future__ import annotations

import pkgutil
from collections.abc import Iterator
from difflib import get_close_matches
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

from unetinspect.errors import ConfigError
from unetinspect.unets.base import Builder

# Source: scripts/change_naming_configs_and_checkpoints.py of diffusers.
_KEYS_OF_OLD = (
    "also rename the keys of an old config: image_size to sample_size, num_res_blocks to layers_per_block,"
    " block_channels to block_out_channels, down_blocks to down_block_types, up_blocks to up_block_types,"
    " num_head_channels to attention_head_dim, resnet_num_groups to norm_num_groups, resnet_act_fn to act_fn,"
    " resnet_eps to norm_eps, downscale_freq_shift to freq_shift"
)
# Names that published configs have, and that stand for no class of today, or for none that runs alone.
_INSTEAD = {
    "UNetUnconditionalModel": f"diffusers calls it UNet2DModel today; {_KEYS_OF_OLD}",
    "UNetConditionalModel": f"diffusers calls it UNet2DConditionModel today; {_KEYS_OF_OLD}",
    "UNetLDMModel": f"diffusers calls it UNet2DConditionModel today; {_KEYS_OF_OLD}",
    "NCSNpp": "diffusers calls it UNet2DModel today, with other keys: see `unetinspect config ncsnpp-church-256`",
    "TemporalUNet": "diffusers calls it UNet1DModel today, with other keys: see `unetinspect config hopper-medium-v2-value-function`",
    **dict.fromkeys(
        ("GLIDETextToImageUNetModel", "GLIDESuperResUNetModel", "GLIDEUNetModel", "UNetGLIDEModel", "UNetGradTTSModel"),
        "diffusers no longer has it, so there is nothing to build it with",
    ),
    "UNetFlatConditionModel": "it is the text UNet of Versatile Diffusion, and denoises no image; trace the image_unet beside it",
    "ControlNetXSAdapter": "it runs inside a UNet alone: trace the UNetControlNetXSModel that the two make up",
    "MultiAdapter": "trace each of its adapters alone: they are of T2IAdapter",
    "MultiControlNetModel": "trace each of its nets alone: they are of ControlNetModel",
}


@cache
def _builders() -> dict[str, Builder]:
    for module in pkgutil.iter_modules([str(Path(__file__).parent)]):
        import_module(f"unetinspect.unets.{module.name}")
    return {builder.class_name: builder() for builder in _subclasses(Builder) if "class_name" in vars(builder)}


def _subclasses(of: type[Builder]) -> Iterator[type[Builder]]:
    for subclass in of.__subclasses__():
        yield subclass
        yield from _subclasses(subclass)


def supported_classes() -> list[str]:
    """Return the names of the classes that can be traced, in alphabetical order."""
    return sorted(_builders())


def plug_classes() -> list[str]:
    """Return the names of the classes whose outputs are plugged into a UNet."""
    return [name for name in supported_classes() if _builders()[name].plugs_into]


def builder_for(class_name: Any) -> Builder:
    """Return the input builder of a diffusers class.

    Raises:
        ConfigError: The name is missing, or no builder knows it.
    """
    if isinstance(class_name, str) and class_name in _builders():
        return _builders()[class_name]
    supported = ", ".join(supported_classes())
    if class_name is None:
        raise ConfigError("the config has no _class_name, so it does not say which UNet it is", hint=f"add a _class_name: {supported}")
    raise ConfigError(f"{class_name} is not a UNet class that can be traced", hint=_what_instead(str(class_name), supported))


def _what_instead(name: str, supported: str) -> str:
    """Say what a class is called today, or which class a name may stand for."""
    if name in _INSTEAD:
        return _INSTEAD[name]
    # Names that only share a word or two with one that is known are of other classes, not misspelt.
    of_ours = [known for known in supported_classes() if "UNet" in known and name.endswith(known)]
    if of_ours:
        return f"if it is a {max(of_ours, key=len)} with additions, that one is traced without them; supported: {supported}"
    close = get_close_matches(name.lower(), [known.lower() for known in supported_classes()], n=1, cutoff=0.7)
    meant = [f"did you mean {known}? " for known in supported_classes() if known.lower() in close]
    return f"{''.join(meant)}supported: {supported}"
