"""A user who reads from a hub on this machine, with a real client in a process of its own for each reading."""

from __future__ import annotations

import atexit
import json
import os
import ssl
import subprocess
import sys
from functools import cache
from pathlib import Path
from tempfile import NamedTemporaryFile, TemporaryDirectory
from typing import Any

from tests.hub_reader import LONGEST
from tests.hub_server import TOKEN, HubServer, address_of, shared_port

ROOT = Path(__file__).parent.parent

_SETTINGS = ("hf_", "transformers_", "huggingface", "ssl_cert")


class HubUser:
    """A user of a server, with a home for the client's cache; each `read` or `header` is one process."""

    def __init__(self, server: HubServer, home: Path) -> None:
        self.server = server
        self.home = home

    def read(self, model: str, *, env: dict[str, str] | None = None, **options: Any) -> dict[str, Any]:
        """Read MODEL and return what came of it."""
        return self._run("model", model, env, options)

    def header(self, model: str, *, env: dict[str, str] | None = None, **options: Any) -> dict[str, Any]:
        """Read the header of weights on the hub and return what came of it."""
        return self._run("header", model, env, options)

    def environment(self) -> dict[str, str]:
        """Return the environment of this user's processes."""
        kept = {name: value for name, value in os.environ.items() if not name.lower().startswith(_SETTINGS) and "proxy" not in name.lower()}
        return kept | {"HF_ENDPOINT": self.server.address, "HF_HOME": str(self.home), **_few_certificates()}

    def _run(self, what: str, model: str, env: dict[str, str] | None, options: dict[str, Any]) -> dict[str, Any]:
        environment = self.environment() | (env or {})
        # The same settings as ever, but for the home: a link leads to that of this user.
        is_ready = not env and self.server.address == address_of(shared_port())
        if is_ready:
            home = _ready_home()
            home.unlink(missing_ok=True)
            home.symlink_to(self.home)
            if not self.home.exists():
                self.home.mkdir(parents=True)
            environment["HF_HOME"] = str(home)
        done = _ask(_reader(is_ready=is_ready), {"what": what, "model": model, "options": options, "env": environment})
        assert TOKEN not in done["stdout"] + done["stderr"]
        assert (done["stderr"], done["code"]) == ("", 0)
        found: dict[str, Any] = json.loads(done["stdout"])
        assert found.pop("heavy") == []
        return found


@cache
def _ready_home() -> Path:
    folder = TemporaryDirectory()
    atexit.register(folder.cleanup)
    return Path(folder.name) / "home"


@cache
def _few_certificates() -> dict[str, str]:
    """Name a file with one certificate: reading all those of the system takes half of a process's time, and no server here needs one."""
    found = ssl.create_default_context().get_ca_certs(binary_form=True)
    if not found:
        return {}
    with NamedTemporaryFile("w", suffix=".pem", delete=False) as file:
        file.write(ssl.DER_cert_to_PEM_cert(found[0]))
    atexit.register(os.unlink, file.name)
    return {"SSL_CERT_FILE": file.name}


@cache
def _reader(*, is_ready: bool) -> subprocess.Popen[str]:
    environment = {name: value for name, value in os.environ.items() if not name.lower().startswith(_SETTINGS)}
    settings = {"HF_ENDPOINT": address_of(shared_port()), "HF_HOME": str(_ready_home())} if is_ready else {}
    command = [sys.executable, "-m", "tests.hub_reader", *(["client"] if is_ready else [])]
    reader = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment | settings, cwd=ROOT)

    def end() -> None:
        reader.communicate(timeout=LONGEST)

    atexit.register(end)
    return reader


def _ask(reader: subprocess.Popen[str], asked: dict[str, Any]) -> dict[str, Any]:
    assert reader.stdin is not None
    assert reader.stdout is not None
    reader.stdin.write(json.dumps(asked) + "\n")
    reader.stdin.flush()
    found: dict[str, Any] = json.loads(reader.stdout.readline())
    return found
