"""Each kind of input: a command line and the files that it names, made from a seed alone."""

# ruff: noqa: S311  nothing here is a secret

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Mapping
from functools import cache
from random import Random
from types import MappingProxyType
from typing import Any, NamedTuple

from fuzz import mutate
from tests import tiny
from unetinspect import trace
from unetinspect.catalog import load_catalog

_CONFIG, _FOLDER, _WEIGHTS, _TRACE = "config.json", "model", "weights.safetensors", "trace.json"
_LOOK = ("trace", "skips", "attn", "tree", "inputs", "ports", "config", "draw", "draw", "names")
_FLAGS = {
    "skips": (["--explain"],),
    "inputs": (["--code"],),
    "tree": (["--depth=1"],),
    "draw": (
        ["--level=layer"],
        *([f"--as={form}", f"--level={level}"] for form in ("svg", "html", "mmd", "dot") for level in ("stage", "layer")),
    ),
}


class Case(NamedTuple):
    """One input: the arguments, the files in the current folder, and standard input."""

    arguments: list[str]
    files: Mapping[str, bytes] = MappingProxyType({})
    stdin: bytes = b""


@cache
def small_configs() -> list[dict[str, Any]]:
    """Return small configs of every class: what the tests trace."""
    return list(tiny.ALL.values())


def configs(random: Random) -> Case:
    """Return a command on a config with one to three changes; those of published models are only resolved, since they are large."""
    config: Any = random.choice(small_configs())
    command = random.choice((*_LOOK, "trace", "check"))
    if random.random() < 0.15:
        config, command = random.choice(list(load_catalog().values())).config, "config"
    for _ in range(random.choice((1, 1, 1, 2, 3))):
        config = mutate.json_value(config, random)
    return Case([command, _CONFIG, *_shown(command, random)], {_CONFIG: mutate.dumped(config)})


def options(random: Random) -> Case:
    """Return any command with any of its options, each with a value of the right kind or of none."""
    from fuzz.options import random_options

    command, given = random_options(random)
    return Case([command, *given], {_CONFIG: mutate.dumped(random.choice(small_configs())), "saved.json": _record(random)})


def sizes(random: Random) -> Case:
    """Return a small UNet that is run at some size, batch, number of tokens and of frames, from 0 to beyond what can be."""
    side = random.choice(("--res", "--latent", "--latent"))
    arguments = [random.choice(("trace", "trace", "skips", "check", "sweep")), _CONFIG, "--device=meta", "--no-cache"]
    for option in (side, "--batch", "--tokens", "--frames", "--vae-scale"):
        if random.random() < (0.9 if option == side else 0.25):
            sizes = random.choice((_number(random), f"{_number(random)}x{_number(random)}")) if option == side else _number(random)
            arguments.append(f"{option}={sizes}")
    return Case(arguments, {_CONFIG: mutate.dumped(random.choice(small_configs()))})


def _number(random: Random) -> str:
    return str(random.choice((*range(12), 16, 17, 24, 31, 32, 63, 64, 100, 129, 2 ** random.randrange(22), 10**20, -1)))


def headers(random: Random) -> Case:
    """Return a command on a .safetensors file whose header is damaged: in its bytes, in its values, or in what it says of its length."""
    entries: Any = random.choice(_header_kinds())
    if random.random() < 0.5:
        for _ in range(random.choice((1, 1, 2, 5))):
            entries = mutate.json_value(entries, random)
    text = mutate.dumped(entries)
    if random.random() < 0.4:
        text = mutate.raw(text, random)
    size = len(text) if random.random() < 0.8 else random.choice((0, 1, 2**31, 2**63, 2**64 - 1, len(text) + 1, len(text) * 2, 25_000_000))
    data = struct.pack("<Q", size) + text + bytes(_held(entries) if random.random() < 0.8 else random.randrange(100))
    if random.random() < 0.15:
        data = random.choice(
            (mutate.raw(data, random), data[: random.randrange(len(data))], b"\x80\x04\x95", b"PK\x03\x04" + data, b"GGUF")
        )
    command = random.choice((["identify", _WEIGHTS], ["trace", _WEIGHTS], ["check", "sd15", "--weights", _WEIGHTS], ["config", _WEIGHTS]))
    if random.random() < 0.3:
        command = ["check", _CONFIG, "--weights", _WEIGHTS]
    return Case([*command, *_shown(command[0], random)], {_WEIGHTS: data, _CONFIG: mutate.dumped(tiny.CONDITION)})


def records(random: Random) -> Case:
    """Return a command on a saved trace whose bytes are damaged."""
    command = random.choice(_LOOK)
    return Case([command, _TRACE, *_shown(command, random)], {_TRACE: mutate.raw(_record(random), random)})


def traces(random: Random) -> Case:
    """Return a command on a saved trace that is JSON, and whose values are changed."""
    record: Any = json.loads(_record(random))
    for _ in range(random.choice((1, 1, 2, 4))):
        record = mutate.json_value(record, random)
    command = random.choice((*_LOOK, "diff", "diff"))
    files = {_TRACE: mutate.dumped(record)}
    if command == "diff":
        both = [_TRACE, "saved.json"] if random.random() < 0.5 else ["saved.json", _TRACE]
        return Case([command, *both, *_shown(command, random)], {**files, "saved.json": _record(random)})
    return Case([command, _TRACE, *_shown(command, random)], files)


def yaml(random: Random) -> Case:
    """Return a command on a config in YAML with text put in, as a file, on standard input or in --set."""
    config = "".join(f"{key}: {json.dumps(inner)}\n" for key, inner in random.choice(small_configs()).items())
    part = mutate.text(config, random, mutate.YAML_PARTS)
    raw = part.encode("utf-8", "surrogatepass")
    command = random.choice(("trace", "config", "config"))
    shown = _shown(command, random)
    place = random.randrange(3)
    if place == 0:
        return Case([command, "-", *shown], stdin=raw)
    if place == 1:
        key = random.choice([line.partition(":")[0] for line in config.splitlines()])
        return Case(
            [command, _CONFIG, f"--set={key}={_typed(random.choice(mutate.YAML_PARTS + mutate.TEXTS))}", *shown],
            {_CONFIG: mutate.dumped(tiny.CONDITION)},
        )
    return Case([command, "config.yaml", *shown], {"config.yaml": raw})


_MESSAGES = """\
mat1 and mat2 shapes cannot be multiplied (154x2048 and 768x320)

RuntimeError: Sizes of tensors must match except in dimension 1. Expected size 24 but got size 25 for tensor number 1 in the list.

Given groups=1, weight of size [320, 9, 3, 3], expected input[2, 4, 64, 64] to have 9 channels, but got 4 channels instead

TypeError: argument of type 'NoneType' is not iterable

ValueError: class_labels should be provided when num_class_embeds > 0

RuntimeError: Error(s) in loading state_dict for UNet2DConditionModel:
\tsize mismatch for conv_in.weight: copying a param with shape torch.Size([320, 9, 3, 3]) from checkpoint, the shape in current model is
 torch.Size([320, 4, 3, 3]).

The size of tensor a (64) must match the size of tensor b (32) at non-singleton dimension 3

Traceback (most recent call last):
  File "a.py", line 3, in <module>
    unet(x)
RuntimeError: shape '[2, -1, 8, 40]' is invalid for input of size 1001

Cannot load  because up_blocks.3.attentions.2.transformer_blocks.0.attn2.to_k.weight expected shape torch.Size([320, 768]), but got
 torch.Size([320, 1024])."""


def errors(random: Random) -> Case:
    """Return explain-error on a message that is changed, as an argument or on standard input."""
    message = random.choice(_MESSAGES.split("\n\n"))
    for _ in range(random.choice((0, 1, 1, 3))):
        message = mutate.text(message, random)
    message = message * random.choice((1, 1, 1, 1, 1000))
    shown = _shown("explain-error", random)[2:]
    if random.random() < 0.5:
        return Case(
            ["explain-error", *random.choice(([], ["-"])), *shown], stdin=mutate.raw(message.encode("utf-8", "surrogatepass"), random)
        )
    return Case(
        ["explain-error", "--", _typed(message)[:100_000]]
        if message.startswith("-")
        else ["explain-error", _typed(message)[:100_000], *shown]
    )


_ESCAPES = ("../weights.safetensors", "/etc/passwd", "..", "a/../../b.safetensors", "\x00", "part.safetensors", "C:\\x", "~/x", ".", "")


def index(random: Random) -> Case:
    """Return a command on a folder whose indexes of parts and of files are changed: paths that leave it, parts that are missing."""
    shards: Any = {
        "metadata": {"total_size": 0},
        "weight_map": {"conv_in.weight": random.choice(_ESCAPES), "conv_in.bias": "part.safetensors"},
    }
    pipeline: Any = {
        "_class_name": "StableDiffusionPipeline",
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
    }
    config, vae = dict(tiny.CONDITION), {"_class_name": "AutoencoderKL", "block_out_channels": [1, 1]}
    parts: list[Any] = [shards, pipeline, config, vae]
    for _ in range(random.choice((1, 1, 2))):
        place = random.randrange(len(parts))
        parts[place] = mutate.json_value(parts[place], random)
    inside = ("unet/diffusion_pytorch_model.safetensors.index.json", "model_index.json", "unet/config.json", "vae/config.json")
    names = [f"{_FOLDER}/{name}" for name in inside]
    files = {name: mutate.dumped(part) for name, part in zip(names, parts, strict=True) if random.random() < 0.9}
    files[f"{_FOLDER}/unet/part.safetensors"] = _file(random.choice(_header_kinds()))
    command = random.choice((["trace", _FOLDER], ["config", _FOLDER], ["identify", names[0]], ["check", _FOLDER, "--weights", names[0]]))
    if random.random() < 0.2:
        command = [*command, "--subfolder", random.choice(("unet", "..", "/", "vae", "../..", "\x1b[2J", "unet/../.."))]
    return Case([*command, *_shown(command[0], random)], files)


KINDS: Mapping[str, Callable[[Random], Case]] = {
    kind.__name__: kind for kind in (configs, options, sizes, headers, records, traces, yaml, errors, index)
}


def make_case(kind: str, seed: int, number: int) -> Case:
    """Return one input of a kind; the same seed and number return the same."""
    return KINDS[kind](Random(f"{kind} {seed} {number}"))


def _shown(command: str, random: Random) -> list[str]:
    """Return options that any command of its kind takes: where it runs, how it prints, and where it writes."""
    runs = ["--device=meta", "--no-cache"] if command not in ("config", "identify") else []
    how = random.choice(([], [], ["--json"], ["--format=md"], ["--format=csv"], ["-o", "answer.txt"], ["--json", "-o", "answer.txt"]))
    flags = random.choice(([], *_FLAGS.get(command, ([],))))
    return [*runs, *how, *flags]


def _typed(text: str) -> str:
    """Return a text as it can be typed: a command line holds no zero bytes."""
    return text.replace("\x00", "")


@cache
def _traced() -> list[bytes]:
    return [trace(tiny.KINDS[name], device="meta", cache=False).to_json().encode() for name in ("conditioned", "plain", "text-time")]


def _record(random: Random) -> bytes:
    return random.choice(_traced())


@cache
def _header_kinds() -> list[dict[str, Any]]:
    """Return headers as they are read: of a small UNet, alone and with a prefix, of a LoRA, and of nothing known."""
    import torch

    from unetinspect.run.build import build_unet
    from unetinspect.run.resolve import resolve_config

    found = []
    for config in (tiny.CONDITION, tiny.PLAIN, tiny.config_of("controlnet")):
        unet = build_unet(resolve_config(config), device=torch.device("meta"), dtype=torch.float16, name="small")
        found.append(_entries({name: tuple(tensor.shape) for name, tensor in unet.state_dict().items()}))
    found.append(_entries({f"model.diffusion_model.{name}": tuple(entry["shape"]) for name, entry in found[0].items()}))
    found.append(_entries({f"lora_unet_{name.replace('.', '_')}.lora_down.weight": (4, 32) for name in list(found[0])[:20]}))
    found.append({"__metadata__": {"format": "pt"}, **_entries({"a": (2, 3), "b": ()})})
    return found


def _entries(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
    entries, position = {}, 0
    for name, shape in shapes.items():
        size = 2
        for side in shape:
            size *= side
        entries[name] = {"dtype": "F16", "shape": list(shape), "data_offsets": [position, position + size]}
        position += size
    return entries


def _held(entries: Any) -> int:
    """Return the bytes that a header says follow it, where that can be read and is not too much to write."""
    try:
        held = max(entry["data_offsets"][1] for name, entry in entries.items() if name != "__metadata__")
        return int(held) if 0 <= held < 10**7 else 0
    except (AttributeError, IndexError, KeyError, OverflowError, TypeError, ValueError):
        return 0


def _file(entries: Mapping[str, Any]) -> bytes:
    text = json.dumps(entries).encode()
    return struct.pack("<Q", len(text)) + text + bytes(_held(entries))
