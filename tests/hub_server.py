"""A model hub on 127.0.0.1, and a user who reads from it.

The server speaks as much of the hub's protocol as its client asks for, and remembers what was asked.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.parse import unquote

COMMIT = "0123456789abcdef0123456789abcdef01234567"
TOKEN = "hf_verysecretverysecret"

# huggingface_hub reads its environment when it is imported, so each reading has a process of its own.
READ = """
import json, sys
from unetinspect.errors import UnetInspectError
from unetinspect.source import read_model

try:
    model = read_model(sys.argv[1], **json.loads(sys.argv[2]))
except UnetInspectError as error:
    found = {"error": error.message, "hint": error.hint, "exit_code": error.exit_code}
else:
    source = model.source
    found = {
        "name": model.name,
        "config": model.config,
        "source": [source.kind, source.location, source.revision, source.subfolder],
        "vae": [model.vae_scale_factor, model.vae_scale_from],
        "notes": list(model.notes),
    }
heavy = [name for name in ("torch", "diffusers") if name in sys.modules]
print(json.dumps(found | {"heavy": heavy}))
"""


@dataclass
class Repository:
    """One repository: files by path, the commit that each branch stands at, and who may read it."""

    files: dict[str, bytes]
    branches: dict[str, str] = field(default_factory=lambda: {"main": COMMIT})
    is_gated: bool = False
    token: str | None = None


@dataclass(frozen=True)
class Asked:
    """One request that the server saw."""

    method: str
    path: str
    authorization: str | None


class HubServer:
    """A hub with the repositories that it is given; `mode` is how it behaves.

    "ok", "500" and "429" (every answer is that error), "hang" (no answer), "trickle" (a byte of the answer now and
    then), "hang on get" (only the metadata is answered), "page" (something that is no hub), "bare 404" (no word on what is missing).
    """

    def __init__(self, repositories: dict[str, Repository] | None = None, *, mode: str = "ok") -> None:
        self.repositories = repositories or {}
        self.mode = mode
        self.requests: list[Asked] = []
        self.closing = threading.Event()
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
        self._http.daemon_threads = True
        self._http.hub = self  # type: ignore[attr-defined]

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
    """A user of a server, with a home for the client's cache; each `read` is one run of a command."""

    def __init__(self, server: HubServer, home: Path) -> None:
        self.server = server
        self.home = home

    def read(self, model: str, *, env: dict[str, str] | None = None, **options: Any) -> dict[str, Any]:
        """Read MODEL in a new process and return what came of it."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "TRANSFORMERS_"))}
        settings = {"HF_ENDPOINT": self.server.address, "HF_HOME": str(self.home), "NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"}
        done = subprocess.run(
            [sys.executable, "-c", READ, model, json.dumps(options)],
            env=kept | settings | (env or {}),
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert TOKEN not in done.stdout + done.stderr
        assert done.stderr == ""
        found: dict[str, Any] = json.loads(done.stdout)
        assert found.pop("heavy") == []
        return found


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
        return self.server.hub  # type: ignore[attr-defined]

    def _answer(self) -> None:
        path = unquote(self.path)
        if "/resolve/" in path:
            self.hub.requests.append(Asked(self.command, path, self.headers.get("authorization")))
        if self.hub.mode in ("hang", f"hang on {self.command.lower()}"):
            self.hub.closing.wait(30)
            self.close_connection = True
        elif self.hub.mode == "trickle":
            self._trickle()
        elif self.hub.mode in ("500", "429"):
            self._send(int(self.hub.mode))
        elif self.hub.mode == "page":
            self._send(200, body=b"<html>Sign in to the guest network</html>")
        elif "/resolve/" not in path:
            # Newer clients ask for a list of known agents on the side.
            self._send(200, body=b"{}")
        else:
            self._resolve(path)

    def _resolve(self, path: str) -> None:
        repo_id, _, rest = path.strip("/").partition("/resolve/")
        repository = self.hub.repositories.get(repo_id)
        sent = (self.headers.get("authorization") or "").removeprefix("Bearer ")
        if repository is None or (repository.token is not None and sent != repository.token and not repository.is_gated):
            return self._refuse(401 if not sent else 404, "RepoNotFound")
        if repository.is_gated and (repository.token is None or sent != repository.token):
            return self._refuse(403 if sent else 401, "GatedRepo")
        revision, _, file = rest.partition("/")
        commit = repository.branches.get(revision, revision if revision in repository.branches.values() else None)
        if commit is None:
            return self._refuse(404, "RevisionNotFound")
        if file not in repository.files:
            return self._refuse(404, "EntryNotFound", commit)
        body = repository.files[file]
        return self._send(200, {"ETag": f'"{hashlib.sha1(body).hexdigest()}"', "X-Repo-Commit": commit}, body)

    def _refuse(self, status: int, code: str, commit: str | None = None) -> None:
        headers = {} if self.hub.mode == "bare 404" else {"X-Error-Code": code, "X-Error-Message": f"{code} for {self.path}"}
        self._send(status, {**headers, **({"X-Repo-Commit": commit} if headers and commit else {})})

    def _send(self, status: int, headers: dict[str, str] | None = None, body: bytes = b"") -> None:
        self.send_response(status)
        for name, value in {**(headers or {}), "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _trickle(self) -> None:
        # Each byte resets the client's timeout for one read, so that only a deadline ends this.
        deadline = time.monotonic() + 20
        try:
            for byte in b"HTTP/1.1 200 OK\r\n" + b"X-Slow: slow\r\n" * 10:
                if self.hub.closing.wait(0.5) or time.monotonic() > deadline:
                    break
                self.wfile.write(bytes([byte]))
                self.wfile.flush()
        except OSError:
            pass
        self.close_connection = True
