"""Random options of every command, as the program itself declares them: a new command or option is tried without an edit here."""

from __future__ import annotations

from functools import cache
from random import Random
from typing import Any, Literal, get_args, get_origin

from fuzz import mutate

_MODELS = (
    "config.json",
    "config.json",
    "config.json",
    "saved.json",
    "sd15",
    "ddpm-cifar10-32",
    "no-such-model",
    "org/name",
    "-",
    ".",
    "",
    "a" * 300,
)
_LIKELY: dict[str, tuple[str, ...]] = {
    "res": ("64", "128", "8x16", "0", "1x", "7,8"),
    "latent": ("8", "16", "8x16", "1", "99999999"),
    "device": ("meta", "meta", "meta", "cpu", "cuda", "cuda:99", "auto", "gpu"),
    "dtype": ("float16", "bf16", "int8", "fp64"),
    "overrides": ("sample_size=8", "layers_per_block=3", "x=1", "=", "act_fn=gelu", "block_out_channels=[8,16]", "down_block_types="),
    "freeu": ("1.2,1.4,0.9,0.2", "1,1,1", "0,0,0,0", "nan,1,1,1", "1e308,1,1,1"),
    "stage": ("mid_block", "down_blocks", "down_blocks.0", "x"),
    "output": ("answer.txt", "no/such/folder", ".", "config.json"),
    "expect": ("attention.cross=16", "skips=12", "x=1", "=", "params>0"),
    "weights": ("config.json", "no.safetensors", "saved.json"),
    "attached": ("config.json", "controlnet-sd15-canny", "saved.json"),
    "subfolder": ("unet", "..", "/", ""),
    "revision": ("main", "refs/pr/1", "../x"),
    "token": ("hf_secret",),
}
# Not these: they act on the machine's own cache folder, or time a device that is not here.
_SKIPPED = ("install_completion", "show_completion")


def random_options(random: Random) -> tuple[str, list[str]]:
    """Return a command and what is typed after it."""
    commands = _commands()
    name = random.choice(list(commands))
    typed: list[str] = []
    few = random.choice((0.05, 0.15, 0.3))
    for parameter in commands[name].params:
        if parameter.name in _SKIPPED:
            continue
        if parameter.param_type_name == "argument":
            typed += [_argument(parameter, random)] if random.random() < 0.95 else []
        elif random.random() < few:
            typed += _option(parameter, random)
    runs = {option for parameter in commands[name].params for option in parameter.opts}
    typed += ["--device=meta"] if "--device" in runs and not any(word.startswith("--device") for word in typed) else []
    random.shuffle(typed)
    return name, typed


@cache
def _commands() -> dict[str, Any]:
    from unetinspect.cli.main import COMMANDS, load_command

    return {name: load_command(name) for name in COMMANDS}


def _argument(parameter: Any, random: Random) -> str:
    choices = _choices(parameter)
    if choices and random.random() < 0.8:
        return random.choice(choices)
    return random.choice(_MODELS) if random.random() < 0.9 else _typed(random)


def _option(parameter: Any, random: Random) -> list[str]:
    option = random.choice([*parameter.opts, *parameter.secondary_opts])
    if parameter.is_flag:
        return [option]
    choices = _choices(parameter)
    if choices and random.random() < 0.7:
        given = random.choice(choices)
    elif parameter.name in _LIKELY and random.random() < 0.7:
        given = random.choice(_LIKELY[parameter.name])
    else:
        given = _typed(random)
    return [f"{option}={given}"] if option.startswith("--") else [f"{option}{given}"]


def _choices(parameter: Any) -> list[str]:
    """Return the words that a parameter takes, where it takes no others."""
    declared = getattr(getattr(parameter, "type_descriptor", None), "annotation", None)  # Typer with a Click of its own
    words = get_args(declared) if get_origin(declared) is Literal else getattr(getattr(parameter, "type", None), "choices", ())
    return [str(word) for word in words]


def _typed(random: Random) -> str:
    return str(random.choice((*mutate.NUMBERS, *mutate.TEXTS))).replace("\x00", "")
