"""The UNet's config in what was read: at the top, in a section of a training config, or in the form of other code.

A config that names its class at the top is returned as it is. Nothing here knows torch.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any, NamedTuple

from msgspec.structs import replace

from unetinspect.catalog import load_catalog
from unetinspect.errors import ConfigError, SourceError
from unetinspect.source.ldm import translated
from unetinspect.source.loaded import LoadedModel
from unetinspect.unets import plug_classes, supported_classes
from unetinspect.unets.builder import words_in
from unetinspect.unets.unknown_keys import from_first_cascade
from unetinspect.units import joined

_BLOCKS = re.compile(r"(down|mid|up)_block_types?")
_INTERPOLATION = re.compile(r"\$\{(\.*)([\w.\[\]]+)\}")
_MOST_HOPS = 20
_MOST_SECTIONS = 10_000
_MOST_LEVELS = 16
# The key under which training configs name the model that they load, wherever it is.
_LOADS = re.compile(r"(?:pretrained_|base_)?(?:model_)?name_or_path|base_model(?:_name)?")
# As diffusers' converter has it: pixels of Stable Diffusion XL, and of 2 where it predicts the velocity.
_PIXELS_XL, _PIXELS_V = 1024, 768
_LATENT_CHANNELS, _VAE_FACTOR = 4, 8
# Without block types, fewer keys could be those of anything.
_FEWEST_KEYS = 3


class _Section(NamedTuple):
    """A part of a file that describes a UNet.

    Attributes:
        path: Its keys, outermost first.
        config: The config; without a class where nothing names one.
        notes: How it was understood.
        vae_scale: The VAE scale factor that the file has for it.
    """

    path: tuple[str, ...]
    config: dict[str, Any]
    notes: tuple[str, ...] = ()
    vae_scale: int | None = None


def find_unet(model: LoadedModel) -> LoadedModel:
    """Return a model with the UNet's config that was read with others around it or in another form.

    What has no UNet in a form that is known is returned as it is: the user may name its class.

    Raises:
        ConfigError: diffusers has no such UNet.
        SourceError: It only names a model that is elsewhere.
    """
    try:
        whole = _resolved(model.config)
    except RecursionError:
        raise ConfigError(f"{model.source.location} is nested too deeply to be a config", hint="give the config.json of a UNet") from None
    if whole.get("_class_name") == "StableCascadeUnet":
        config, renamed = from_first_cascade(whole)
        note = f"config of diffusers' first Stable Cascade translated to StableCascadeUNet: {', '.join(renamed)}"
        return replace(model, config=config, notes=(*model.notes, note))
    if "_class_name" in whole:
        return model if whole == model.config else replace(model, config=whole)
    found = sorted(_sections(whole), key=lambda section: section.config.get("_class_name") in plug_classes())
    if not found:
        if not whole.keys() & _known_keys() and (named := next(_loaded(whole), None)):
            raise _elsewhere(model.source.location, named)
        if isinstance(target := _inside(whole, "model").get("target"), str):
            raise ConfigError(f"{model.source.location} is a config of {target} and has no UNet", hint="give the config of a UNet")
        return model
    first, *others = found
    also = [".".join(other.path) for other in others]
    notes = [f"config read from the section {'.'.join(first.path)}"] if first.path else []
    notes += [f"sections not read: {', '.join(also)}"] if also else []
    factor = {} if first.vae_scale is None else {"vae_scale_factor": first.vae_scale, "vae_scale_from": "first_stage_config"}
    return replace(model, config=first.config, notes=(*model.notes, *notes, *first.notes), **factor)


def _sections(whole: Mapping[str, Any]) -> Iterator[_Section]:
    """Yield the parts that describe a UNet, the outermost first."""
    waiting: deque[tuple[tuple[str, ...], Mapping[str, Any]]] = deque([((), whole)])
    for _ in range(_MOST_SECTIONS):
        if not waiting:
            return
        path, node = waiting.popleft()
        section = _ldm(path, node, whole) or _diffusers(path, node)
        if section is not None:
            yield section
            continue
        for key, value in node.items():
            inside = value if isinstance(value, list) else [value]
            waiting.extend(((*path, str(key)), item) for item in inside if isinstance(item, dict))


def _ldm(path: tuple[str, ...], node: Mapping[str, Any], whole: Mapping[str, Any]) -> _Section | None:
    """Read a section of LDM's or SGM's, `target` and `params`, or flags of guided-diffusion; None: it is neither."""
    found = translated(node, ".".join(path))
    if found is None:
        return None
    what, config, left = found
    around = _inside(whole, "model", "params")
    levels = _inside(around, "first_stage_config", "params", "ddconfig").get("ch_mult")
    factor = 2 ** (len(levels) - 1) if isinstance(levels, list) and 0 < len(levels) <= _MOST_LEVELS else None
    notes = [f"{what} translated to diffusers: `unetinspect config` shows the result"]
    if "target" in node:
        if "image_size" in around:
            config["sample_size"] = around["image_size"]  # of the latents; the UNet's own image_size is not read
        is_v = around.get("parameterization") == "v" and config["in_channels"] == _LATENT_CHANNELS
        pixels = _PIXELS_XL if config.get("addition_embed_type") == "text_time" else _PIXELS_V if is_v else None
        if pixels:
            config["sample_size"] = pixels // (factor or _VAE_FACTOR)
            notes.append(f"sample_size {config['sample_size']}: assumed, as in diffusers' converter")
    notes += [f"not translated: {joined(left)}"] if left else []
    return _Section(path, config, tuple(notes), factor)


def _inside(value: Any, *keys: str) -> Mapping[str, Any]:
    for key in keys:
        value = value.get(key) if isinstance(value, dict) else None
    return value if isinstance(value, dict) else {}


def _diffusers(path: tuple[str, ...], node: Mapping[str, Any]) -> _Section | None:
    """Read a section with keys of diffusers' UNets whose class is named in or around it, or can be guessed; None: it has no UNet."""
    named = {key: name for key, value in node.items() if isinstance(value, str) and (name := _class_in(value)) is not None}
    named = named or ({"": path[-1]} if path and path[-1] in supported_classes() else {})
    config = {key: value for key, value in node.items() if key not in named}
    if named:
        inner = [key for key, value in config.items() if isinstance(value, dict) and value.keys() & _known_keys()]
        if not config.keys() & _known_keys() and inner:
            path, config = (*path, inner[0]), config[inner[0]]
        elsewhere = config.get("pretrained_model_name_or_path")
        if isinstance(elsewhere, str) and not config.keys() & _known_keys():
            raise _elsewhere(f"the section {'.'.join(path)}" if path else "the file", elsewhere)
        if not config.keys() & _known_keys() and any(not str(key).startswith("_") for key in config):
            return None
        key, name = next(iter(named.items()))
        notes = () if key in ("_class_name", "") else (f"class {name}, from its key {key}",)
        return _Section(path, {"_class_name": config.pop("_class_name", name), **config}, notes)
    blocks = {word for key, value in config.items() if _BLOCKS.fullmatch(str(key)) for word in words_in(value)}
    guessed = _class_like(config, blocks)
    if guessed is None:
        return None
    why = f"no class is named: guessed {guessed} from its {'block types' if blocks else 'keys'} (--set _class_name=NAME overrides it)"
    return _Section(path, {"_class_name": guessed, **config}, (why,))


def _class_in(value: str) -> str | None:
    """Return the class that a dotted name names: "diffusers.UNet2DModel", "diffusers.UNet2DModel.from_config"."""
    return next((part for part in reversed(value.split(".")) if part in supported_classes()), None)


def _class_like(config: Mapping[str, Any], blocks: set[str]) -> str | None:
    """Guess a config's class: that whose published configs have the most like its block types and then its keys."""
    own = {key for key in config if not str(key).startswith("_")}
    if not blocks and ("block_out_channels" not in own or "latent_channels" in own):  # a VAE has the like
        return None
    published: dict[str, list[Mapping[str, Any]]] = {}
    for entry in load_catalog().values():
        published.setdefault(entry.class_name, []).append(entry.config)

    def likeness(class_name: str) -> tuple[float, int, float, int]:
        configs = published[class_name]
        words = [{word for key, value in each.items() if _BLOCKS.fullmatch(key) for word in words_in(value)} for each in configs]
        known, needed = set[str]().union(*configs), set(configs[0]).intersection(*configs)
        of_blocks = max(len(blocks & each) / max(len(blocks | each), 1) for each in words)
        return of_blocks, len(own & known), len(own & needed) / len(needed), len(configs)

    best = max(published, key=likeness)
    of_blocks, of_keys, *_ = likeness(best)
    return best if of_blocks or (not blocks and of_keys >= max(_FEWEST_KEYS, len(own) / 2)) else None


@cache
def _known_keys() -> set[str]:
    return {key for entry in load_catalog().values() for key in entry.config if key != "_class_name"} | {"adapter_type", "channels"}


def _loaded(value: Any) -> Iterator[str]:
    """Yield the models that a training config loads, the outermost first."""
    if isinstance(value, dict):
        yield from (name for key, name in value.items() if isinstance(name, str) and name and _LOADS.fullmatch(str(key)))
    for item in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from _loaded(item)


def _elsewhere(where: str, name: str) -> SourceError:
    return SourceError(f"no UNet config here: {where} loads {name}", hint=f"unetinspect trace {name}")


def _resolved(config: Mapping[str, Any]) -> dict[str, Any]:
    """Replace OmegaConf's interpolations, `${model.channels}`, by the values that they name; others stay as they are."""

    def value_at(path: tuple[str, ...], dots: str, name: str) -> Any:
        start = path[: len(path) - len(dots)] if dots else ()
        found: Any = config
        for part in (*start, *filter(None, re.split(r"[.\[\]]", name))):
            found = found[int(part)] if isinstance(found, list) else found[part]
        return found

    def resolve(value: Any, path: tuple[str, ...], hops: int = 0) -> Any:
        if isinstance(value, dict):
            return {key: resolve(item, (*path, str(key)), hops) for key, item in value.items()}
        if isinstance(value, list):
            return [resolve(item, path, hops) for item in value]
        named = _INTERPOLATION.fullmatch(value) if isinstance(value, str) else None
        if named is None or hops > _MOST_HOPS:
            return value
        try:
            target = value_at(path, *named.groups())
        except (LookupError, TypeError, ValueError):
            return value
        if isinstance(target, str):
            return resolve(target, path, hops + 1)
        grows = isinstance(target, dict) or any("${" in word for word in words_in(target))  # names of names, without end
        return value if grows else target

    resolved: dict[str, Any] = resolve(dict(config), ())
    return resolved
