"""A model hub on 127.0.0.1, and a user whose client reads from it.

The server speaks as much of the hub's protocol as the client asks for, and remembers what was asked.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import struct
import threading
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from math import prod
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.parse import unquote

import pytest

from unetinspect.errors import SourceError, UnetInspectError
from unetinspect.source import LoadedModel, read_model
from unetinspect.source.loaded import LoadedWeights
from unetinspect.source.read import read_weights

COMMIT = "0123456789abcdef0123456789abcdef01234567"
TOKEN = "hf_verysecretverysecret"

_CHUNK = 64 * 1024


@dataclass
class Repository:
    """One repository: files by path, the commit that each branch stands at, and who may read it.

    `sizes` are of files that are longer than what `files` holds of them: the rest is zeros. `refusal` is what every request gets.
    """

    files: dict[str, bytes]
    branches: dict[str, str] = field(default_factory=lambda: {"main": COMMIT})
    is_gated: bool = False
    token: str | None = None
    sizes: dict[str, int] = field(default_factory=dict)
    refusal: tuple[int, dict[str, str]] | None = None


@dataclass(frozen=True)
class Asked:
    """One request that the server saw."""

    method: str
    path: str
    authorization: str | None
    range: str | None


class HubServer:
    """A hub with the repositories that it is given; `mode` is how it behaves.

    "ok", "hang" (no answer), "trickle" (a byte of the answer now and then), "500 on get" (only the metadata is answered), "page"
    (it is not a hub), "bare 404" (no word on what is missing), "hang in body" and "cut in body" (after half of a file), "whole"
    (ranges are not supported), "elsewhere" (each file is at another address of the same host).

    Attributes:
        renamed: Repositories by the names that they had before.
        cdn: The server that has the .safetensors files, if it is not this one.
        sent: Bytes of files that went out.
    """

    def __init__(self, repositories: dict[str, Repository]) -> None:
        self.repositories = repositories
        self.mode = "ok"
        self.renamed: dict[str, str] = {}
        self.cdn: HubServer | None = None
        self.sent = 0
        self.requests: list[Asked] = []
        self.closing = threading.Event()
        self._http = _Server(("127.0.0.1", 0), _Handler)
        self._http.daemon_threads = True
        self._http.hub = self

    def __enter__(self) -> HubServer:
        threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.closing.set()
        self._http.shutdown()
        self._http.server_close()

    @property
    def address(self) -> str:
        """What to set HF_ENDPOINT to."""
        return f"http://127.0.0.1:{self._http.server_address[1]}"

    def seen(self) -> list[str]:
        """Return the requests so far as "HEAD main unet/config.json", and forget them."""
        lines = [f"{asked.method} {asked.path.split('/resolve/')[-1].replace('/', ' ', 1)}" for asked in self.requests]
        self.requests.clear()
        return lines


class HubUser:
    """A user of a server, with an empty home for the client's cache, in this process."""

    def __init__(self, server: HubServer, home: Path, patch: pytest.MonkeyPatch) -> None:
        from huggingface_hub import constants

        self.server, self.home, self._patch = server, home, patch
        for name in [name for name in os.environ if "proxy" in name.lower()]:
            patch.delenv(name)
        patch.setattr(constants, "HF_HUB_OFFLINE", False)
        patch.setattr(constants, "HF_HUB_CACHE", str(home / "hub"))
        patch.setattr(constants, "HF_TOKEN_PATH", str(home / "token"))
        self.use_endpoint(server.address)

    def use_endpoint(self, address: str) -> None:
        """Set HF_ENDPOINT, as the client has it that was imported with it."""
        from huggingface_hub import constants

        self._patch.setenv("HF_ENDPOINT", address)
        self._patch.setattr(constants, "ENDPOINT", address)
        self._patch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", f"{address}/{{repo_id}}/resolve/{{revision}}/{{filename}}")

    def read(self, model: str, **options: Any) -> LoadedModel:
        """Read MODEL."""
        read = read_model(model, **options)
        assert TOKEN not in repr(read)
        return read

    def header(self, name: str, **options: Any) -> LoadedWeights:
        """Read the header of weights."""
        read = read_weights(name, **options)
        assert TOKEN not in repr(read)
        return read

    def refusal(self, model: str, *, kind: type[UnetInspectError] = SourceError, header: bool = False, **options: Any) -> tuple[str, str]:
        """Return the sentence and the hint that reading ends in; nothing that the error came from has the token."""
        with pytest.raises(kind) as caught:
            (self.header if header else self.read)(model, **options)
        chain: list[BaseException] = [caught.value]
        for error in chain:
            chain += filter(None, (error.__cause__, error.__context__))
        assert not any(TOKEN in f"{error} {vars(error)}" or hasattr(error, "request") for error in chain)
        return caught.value.message, str(caught.value.hint)

    def environment(self) -> dict[str, str]:
        """Return the environment of another process of this user."""
        other = ("hf_", "huggingface", "ssl_cert")
        kept = {name: value for name, value in os.environ.items() if not name.lower().startswith(other) and "proxy" not in name.lower()}
        return kept | {"HF_ENDPOINT": self.server.address, "HF_HOME": str(self.home)}

    def kept(self) -> list[Path]:
        """List the whole and the partial files in the cache."""
        return [file for file in self.home.rglob("*") if file.is_file()]


def pipeline(unet: dict[str, Any], vae: dict[str, Any] | None = None) -> dict[str, bytes]:
    """Return the files of a pipeline with that UNet, and that VAE if there is one."""
    index: dict[str, Any] = {
        "_class_name": "StableDiffusionPipeline",
        "unet": ["diffusers", unet.get("_class_name", "UNet2DConditionModel")],
    }
    files = {"unet/config.json": as_json(unet)}
    if vae is not None:
        index["vae"] = ["diffusers", "AutoencoderKL"]
        files["vae/config.json"] = as_json(vae)
    return {"model_index.json": as_json(index), **files}


def as_json(value: Any) -> bytes:
    """Write a value as a file of the hub."""
    return json.dumps(value).encode()


def safetensors(tensors: dict[str, tuple[str, list[int]]], *, metadata: dict[str, str] | None = None) -> tuple[bytes, int]:
    """Return the start of a safetensors file, up to its first weight, and the size of the whole file; all in 16 bits.

    A tensor is given as its dtype, one of two bytes, and its shape.
    """
    header: dict[str, Any] = {} if metadata is None else {"__metadata__": metadata}
    position = 0
    for name, (dtype, shape) in tensors.items():
        size = 2 * prod(shape)
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [position, position + size]}
        position += size
    raw = as_json(header)
    start = struct.pack("<Q", len(raw)) + raw
    return start, len(start) + position


class _Server(ThreadingHTTPServer):
    hub: HubServer

    def handle_error(self, *_: object) -> None:
        """Say nothing of a client that went away; a mistake in here is seen by the test that waits for an answer."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def log_message(self, *_: object) -> None:
        """Keep the tests' own output clean."""

    @property
    def hub(self) -> HubServer:
        found: HubServer = self.server.hub  # type: ignore[attr-defined]
        return found

    def _answer(self) -> None:
        path = unquote(self.path)
        if "/resolve/" in path or "/api/models/" in path:
            self.hub.requests.append(Asked(self.command, path, self.headers.get("authorization"), self.headers.get("range")))
        if self.hub.mode == "hang":
            self.hub.closing.wait(30)
            self.close_connection = True
        elif self.hub.mode == "trickle":
            self._trickle(b"HTTP/1.1 200 OK\r\n" + b"X-Slow: slow\r\n" * 10)
        elif self.hub.mode == "500 on get" and self.command == "GET":
            self._send(500)
        elif self.hub.mode == "page":
            self._send(200, body=b"<html>Sign in to the guest network</html>")
        elif path.startswith("/api/models/"):
            self._list(path.removeprefix("/api/models/").partition("/revision/")[0])
        elif path.startswith("/api/resolve-cache/models/"):
            self._resolve(re.sub("^/api/resolve-cache/models/([^/]+/[^/]+)/", r"/\1/resolve/", path), is_last=True)
        elif "/resolve/" not in path:
            # Newer clients ask for a list of known agents on the side.
            self._send(200, body=b"{}")
        else:
            self._resolve(path)

    def _list(self, repo_id: str) -> None:
        files = self.hub.repositories[repo_id].files
        self._send(200, body=as_json({"id": repo_id, "siblings": [{"rfilename": file} for file in files]}))

    def _resolve(self, path: str, *, is_last: bool = False) -> None:
        repo_id, _, rest = path.strip("/").partition("/resolve/")
        if repo_id in self.hub.renamed:
            return self._send(307, {"Location": f"/{self.hub.renamed[repo_id]}/resolve/{rest}"})
        if self.hub.mode == "elsewhere" and not is_last:
            # As the hub does it with small files: the first answer has all but the size.
            told = {"ETag": '"abc"', "X-Repo-Commit": COMMIT, "Location": f"/api/resolve-cache/models/{repo_id}/{rest}"}
            return self._send(307, told)
        repository = self.hub.repositories.get(repo_id)
        sent = (self.headers.get("authorization") or "").removeprefix("Bearer ")
        if repository is not None and repository.refusal is not None:
            return self._send(*repository.refusal)
        is_closed = repository is None or (repository.token is not None and sent != repository.token)
        if repository is None or (is_closed and not repository.is_gated):
            return self._refuse(401 if not sent else 404, "RepoNotFound")
        if repository.is_gated and (is_closed or repository.token is None):
            return self._refuse(403 if sent else 401, "GatedRepo")
        return self._send_at(repository, rest)

    def _send_at(self, repository: Repository, rest: str) -> None:
        revision, _, file = rest.partition("/")
        commit = repository.branches.get(revision, revision if revision in repository.branches.values() else None)
        if commit is None:
            return self._refuse(404, "RevisionNotFound")
        if file not in repository.files:
            return self._refuse(404, "EntryNotFound", commit)
        return self._send_file(repository, file, commit)

    def _send_file(self, repository: Repository, file: str, commit: str) -> None:
        start = repository.files[file]
        size = repository.sizes.get(file, len(start))
        headers = {"ETag": f'"{hashlib.sha1(start).hexdigest()}"', "X-Repo-Commit": commit}
        if self.hub.cdn is not None and file.endswith(".safetensors"):
            linked = {"X-Linked-Size": str(size), "X-Linked-ETag": headers["ETag"], "Location": f"{self.hub.cdn.address}{self.path}"}
            return self._send(302, headers | linked)
        asked = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("range", "")) if self.hub.mode != "whole" else None
        if asked is None or self.command == "HEAD":
            return self._stream(200, headers, start, 0, size)
        first, last = int(asked[1]), min(int(asked[2]), size - 1)
        if first >= size:
            return self._send(416, {"Content-Range": f"bytes */{size}"})
        return self._stream(206, headers | {"Content-Range": f"bytes {first}-{last}/{size}"}, start, first, last + 1)

    def _refuse(self, status: int, code: str, commit: str | None = None) -> None:
        headers = {} if self.hub.mode == "bare 404" else {"X-Error-Code": code, "X-Error-Message": f"{code} for {self.path}"}
        self._send(status, {**headers, **({"X-Repo-Commit": commit} if headers and commit else {})})

    def _send(self, status: int, headers: dict[str, str] | None = None, body: bytes = b"") -> None:
        self._stream(status, headers or {}, body, 0, len(body))

    def _stream(self, status: int, headers: dict[str, str], start: bytes, first: int, end: int) -> None:
        """Send bytes `first` to `end` of a file that begins with `start` and goes on with zeros, or as many as `mode` lets through."""
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(end - first)}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        if self.hub.mode.endswith("in body") and "/resolve/" in self.path:
            self._write(start[first : first + (end - first) // 2])
            self.close_connection = True
            if self.hub.mode == "hang in body":
                self.hub.closing.wait(30)
            return
        self._write(start[first:end])
        for position in range(max(first, len(start)), end, _CHUNK):
            self._write(bytes(min(_CHUNK, end - position)))

    def _write(self, body: bytes) -> None:
        self.wfile.write(body)
        self.wfile.flush()
        self.hub.sent += len(body) if "/resolve/" in self.path else 0

    def _trickle(self, body: bytes) -> None:
        # Each byte resets the client's timeout for one read, so that only a deadline ends this.
        deadline = time.monotonic() + 20
        for byte in body:
            if self.hub.closing.wait(0.5) or time.monotonic() > deadline:
                break
            self._write(bytes([byte]))
        self.close_connection = True
