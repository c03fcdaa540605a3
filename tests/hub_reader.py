"""A user's processes, each fresh, and each started in a fraction of a Python's time.

This program imports what takes long, and then forks one process for each line on its standard input. The hub's client
reads its environment when it is imported: with the argument "client" it is imported here, for a hub and a home that stay
the same; without, each process imports it for itself.
"""

from __future__ import annotations

import gc
import importlib
import importlib.util
import json
import os
import signal
import sys
import time
from tempfile import TemporaryFile
from typing import Any

# What the client imports, in either of its versions, and what the commands do before they need it.
CLIENTS = ("httpx2", "httpx")
PRELOADED = (
    *("tqdm.auto", "filelock", "yaml", "asyncio", "importlib.metadata", "email.parser"),
    *("unetinspect.source.read", "unetinspect.source.hub", "unetinspect.checkpoint.identify"),
)
LONGEST = 60


def main() -> None:
    """Answer each line {"what", "model", "options", "env"} with a line {"stdout", "stderr", "code", "seconds"}."""
    for name in PRELOADED:
        importlib.import_module(name)
    for name in CLIENTS:
        if importlib.util.find_spec(name) is not None:
            # Which imports the better half of it.
            importlib.import_module(name).Client(verify=False, trust_env=False).close()
    if sys.argv[1:] == ["client"]:
        importlib.import_module("huggingface_hub.file_download")
    assert ("huggingface_hub" in sys.modules) == (sys.argv[1:] == ["client"])
    gc.freeze()
    for line in sys.stdin:
        asked = json.loads(line)
        streams = [TemporaryFile() for _ in range(2)]  # noqa: SIM115  the child must not close what it shares
        started = time.monotonic()
        child = os.fork()
        if child == 0:
            read(asked, [stream.fileno() for stream in streams])
            # Not left by os._exit: the process must end as any other does.
            break
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        found: dict[str, Any] = {"code": code, "seconds": time.monotonic() - started}
        for name, stream in zip(("stdout", "stderr"), streams, strict=True):
            stream.seek(0)
            found[name] = stream.read().decode()
            stream.close()
        print(json.dumps(found), flush=True)


def read(asked: dict[str, Any], handles: list[int]) -> None:
    """Be the process of one reading; `handles` are what it prints to."""
    signal.alarm(LONGEST)
    os.environ.clear()
    os.environ.update(asked["env"])
    for handle, stream in zip(handles, (sys.stdout, sys.stderr), strict=True):
        os.dup2(handle, stream.fileno())
    print(json.dumps(found_by(asked["what"], asked["model"], asked["options"])))


def found_by(what: str, model: str, options: dict[str, Any]) -> dict[str, Any]:
    """Return what one reading brings: its result or its error, and what it imported on the way."""
    from unetinspect.errors import UnetInspectError

    failure: UnetInspectError | None = None
    found: dict[str, Any] = {}
    try:
        found = {"model": found_model, "header": found_header}[what](model, options)
    except UnetInspectError as error:
        failure = error
    if failure is not None:
        found = {"error": failure.message, "hint": failure.hint, "exit_code": failure.exit_code}
    # A client's error has the request in it, and the request the token.
    assert not any(hasattr(cause, "request") for cause in chain_of(failure))
    return found | {"heavy": [name for name in ("torch", "diffusers") if name in sys.modules]}


def chain_of(error: BaseException | None) -> list[BaseException]:
    """List an error and all that it came from, shown or not."""
    return [] if error is None else [error, *chain_of(error.__cause__), *chain_of(error.__context__)]


def found_model(model: str, options: dict[str, Any]) -> dict[str, Any]:
    """Read a model, as `trace` does."""
    from unetinspect.source import read_model

    read = read_model(model, **options)
    return {
        "name": read.name,
        "config": read.config,
        "source": [read.source.kind, read.source.location, read.source.revision, read.source.subfolder],
        "vae": [read.vae_scale_factor, read.vae_scale_from],
        "notes": list(read.notes),
    }


def found_header(model: str, options: dict[str, Any]) -> dict[str, Any]:
    """Read the header of weights."""
    from unetinspect.source.checkpoint import config_beside, find_weights, weights_in
    from unetinspect.source.hub import HubRepository
    from unetinspect.source.hub_id import parse_hub_id

    place = parse_hub_id(model, endpoint=os.environ["HF_ENDPOINT"])
    assert place is not None
    repository = HubRepository(place, **options)
    read = weights_in(repository, place.file) if place.file else find_weights(repository, place.folder)
    header = read.header
    config, notes = config_beside(repository, header.name.removeprefix(f"{place.repo_id}/"))
    return {
        "name": header.name,
        "tensors": {name: [list(tensor.shape), tensor.dtype] for name, tensor in header.tensors.items()},
        "bytes": header.bytes,
        "files": header.files,
        "file": read.source.location.removeprefix(f"{place.repo_id}/"),
        "commit": read.source.revision,
        "config": config,
        "notes": list(notes),
    }


if __name__ == "__main__":
    main()
