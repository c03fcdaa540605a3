"""What each UNet class's `forward` needs, derived from its config alone. Nothing here knows torch.

A new class is one subclass of `Builder` in a file beside this one; `builder_for` finds it by the config's `_class_name`.
"""

from __future__ import annotations

import pkgutil
import re
from collections.abc import Iterator
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from unetinspect.errors import ConfigError, nearest_names
from unetinspect.unets.builder import Builder, Plan

__all__ = ["Builder", "Plan", "builder_for", "class_like", "installed_classes", "plug_classes", "supported_classes"]

# Source: scripts/change_naming_configs_and_checkpoints.py of diffusers.
_KEYS_OF_OLD = (
    "also rename the keys of an old config: image_size to sample_size, num_res_blocks to layers_per_block,"
    " block_channels to block_out_channels, down_blocks to down_block_types, up_blocks to up_block_types,"
    " num_head_channels to attention_head_dim, resnet_num_groups to norm_num_groups, resnet_act_fn to act_fn,"
    " resnet_eps to norm_eps, downscale_freq_shift to freq_shift"
)
# Names in published configs that are not a class today, or not one that runs alone.
_INSTEAD = {
    "UNetUnconditionalModel": f"diffusers calls it UNet2DModel today; {_KEYS_OF_OLD}",
    "UNetConditionalModel": f"diffusers calls it UNet2DConditionModel today; {_KEYS_OF_OLD}",
    "UNetLDMModel": f"diffusers calls it UNet2DConditionModel today; {_KEYS_OF_OLD}",
    "NCSNpp": "diffusers calls it UNet2DModel today, with other keys: see `unetinspect config ncsnpp-church-256`",
    "TemporalUNet": "diffusers calls it UNet1DModel today, with other keys: see `unetinspect config hopper-medium-v2-value-function`",
    **dict.fromkeys(
        ("GLIDETextToImageUNetModel", "GLIDESuperResUNetModel", "GLIDEUNetModel", "UNetGLIDEModel", "UNetGradTTSModel"),
        "diffusers no longer has it, so it cannot be built",
    ),
    "UNetFlatConditionModel": "it is the text UNet of Versatile Diffusion, and denoises no image; trace the image_unet beside it",
    "ControlNetXSAdapter": "it runs inside a UNet alone: trace the UNetControlNetXSModel that the two make up",
    "MultiAdapter": "trace each of its adapters alone: each is a T2IAdapter",
    "MultiControlNetModel": "trace each of its nets alone: each is a ControlNetModel",
}
# What models of other classes are, by a pattern in the name.
_OTHER_MODELS = {
    r"Transformer(?:[123]D)?Model$|DiT(?:2D)?Model$": "a diffusion transformer",
    r"^(?:Asymmetric|Consistency)?Autoencoder|^VQModel$|VAE": "a VAE",
    r"TextModel|T5\w*Model$|^Llama|^Qwen|^Gemma": "a text encoder",
    r"VisionModel": "an image encoder",
    r"Scheduler$": "a scheduler",
    r"Pipeline$": "a pipeline",
}


@cache
def _builders() -> dict[str, Builder]:
    for module in pkgutil.iter_modules(__path__):
        import_module(f"{__name__}.{module.name}")
    return {builder.class_name: builder() for builder in _subclasses(Builder) if "class_name" in vars(builder)}


def _subclasses(of: type[Builder]) -> Iterator[type[Builder]]:
    for subclass in of.__subclasses__():
        yield subclass
        yield from _subclasses(subclass)


def supported_classes() -> list[str]:
    """Return the names of the classes that can be traced, in alphabetical order."""
    return sorted(_builders())


def installed_classes() -> list[str]:
    """Return the names of those that the installed diffusers has, as its files say: nothing is imported."""
    spec = find_spec("diffusers")
    if spec is None or spec.origin is None:
        return supported_classes()
    folder = Path(spec.origin).parent

    def is_there(name: str) -> bool:
        inside = builder_for(name).module.partition(".")[2].replace(".", "/")
        path = folder / (f"{inside}.py" if inside else "__init__.py")
        return path.is_file() and re.search(rf"\b{name}\b", path.read_text(encoding="utf-8")) is not None

    return list(filter(is_there, supported_classes()))


def plug_classes() -> list[str]:
    """Return the names of the classes whose outputs are inputs of a UNet."""
    return [name for name in supported_classes() if _builders()[name].plugs_into]


def builder_for(class_name: Any) -> Builder:
    """Return the input builder of a diffusers class.

    Raises:
        ConfigError: The name is missing, or no builder has it.
    """
    if isinstance(class_name, str) and class_name in _builders():
        return _builders()[class_name]
    supported = ", ".join(supported_classes())
    if class_name is None:
        raise ConfigError("the config has no _class_name, so its UNet class is unknown", hint=f"add a _class_name: {supported}")
    name = str(class_name)
    like = class_like(name)
    if what := next((what for word, what in _OTHER_MODELS.items() if re.search(word, name)), None):
        raise ConfigError(f"{name} is {what}, not a UNet", hint="`unetinspect models --classes` lists the classes that can be traced")
    if name not in _INSTEAD:
        like += f"{' ' if like.endswith('?') else '; ' if like else ''}supported: {supported}"
    raise ConfigError(f"{name} is not a UNet class that can be traced", hint=like)


def class_like(name: str) -> str:
    """Say which class replaces a class that cannot be traced, or which class may be meant; "" if neither is known."""
    if name in _INSTEAD:
        return _INSTEAD[name]
    # A name that only shares a word or two with a known one is another class, not misspelled.
    of_ours = [known for known in supported_classes() if "UNet" in known and name.endswith(known)]
    if of_ours:
        return f"if it is a {max(of_ours, key=len)} with additions, that one is traced without them"
    close = nearest_names(name, supported_classes(), count=1, cutoff=0.7)
    return f"did you mean {close[0]}?" if close else ""
