"""A hub that cannot be asked, or does not end what it began: told in one sentence, and within five seconds."""

from __future__ import annotations

import signal
import socket
import ssl
import subprocess
import sys
import time
from errno import ENETUNREACH

import pytest

from tests.hub_server import HubServer, Repository, pipeline
from tests.hub_user import HubUser
from unetinspect.source.hub import read_body, wait_for
from unetinspect.source.hub_errors import CutOffError, NoAnswerError, explain

UNET = {"_class_name": "UNet2DConditionModel", "block_out_channels": [32, 64], "sample_size": 8}
CATALOG = "use a model from the catalog: `unetinspect models`"
# Five seconds, and what a process takes to start while the other tests run beside it.
TOLD = 5 + 3


@pytest.fixture
def hub(tmp_path):
    """Return a hub with one pipeline, acme/sd."""
    with HubServer({"acme/sd": Repository(pipeline(UNET, {"block_out_channels": [1, 2]}))}) as server:
        yield HubUser(server, tmp_path / "home")


def kept(hub):
    """List the whole and the half files that the cache holds."""
    return [file for file in hub.home.rglob("*") if file.is_file()]


@pytest.mark.parametrize("mode", ["hang", "trickle", "hang in body"])
def test_hub_that_falls_silent(hub, mode):
    """A hub that does not answer, answers a letter at a time or stops in the middle of a file is given up within five seconds."""
    hub.server.mode = mode
    started = time.monotonic()
    found = hub.read("acme/sd")
    assert time.monotonic() - started < TOLD
    assert (found["exit_code"], found["error"].startswith("could not fetch acme/sd: ")) == (3, True)
    if mode == "hang in body":
        size = len(pipeline(UNET)["unet/config.json"])
        assert found["error"].endswith(f"the download stopped after {size // 2} of {size} bytes (timed out)")
        assert kept(hub) == []
    else:
        # Which of the two deadlines ends it, that of the socket or that of the whole, a busy machine may decide.
        assert found["error"].endswith((f"{hub.server.address} did not answer (no answer within 3 s)", "(timed out)"))


class Drip:
    """An answer that comes a byte at a time."""

    is_closed = False

    def __init__(self, count):
        self.count = count

    def iter_bytes(self):
        for _ in range(self.count):
            time.sleep(0.05)
            yield b"x"

    def close(self):
        self.is_closed = True


def test_slow_drip_is_bounded():
    """A body that goes on coming is waited for, but not past its deadline, and its connection is closed."""
    assert read_body(Drip(6), 6, is_known=True, seconds=5) == b"xxxxxx"
    assert read_body(Drip(3), 6, is_known=False, seconds=5) == b"xxx"
    with pytest.raises(CutOffError, match=r"^the download stopped after 3 of 6 bytes \(connection closed\)$"):
        read_body(Drip(3), 6, is_known=True, seconds=5)
    drip = Drip(100)
    started = time.monotonic()
    with pytest.raises(CutOffError, match=r"^the download stopped after \d+ of 100 bytes \(time limit of 0.2 s\)$"):
        read_body(drip, 100, is_known=True, seconds=0.2)
    assert time.monotonic() - started < 1
    assert drip.is_closed


def test_wait_has_a_deadline():
    """A call is waited for until its deadline, whatever holds it up; what it returns or raises in time is passed on."""
    assert wait_for(lambda: "done", seconds=5) == "done"
    with pytest.raises(ZeroDivisionError):
        wait_for(lambda: 1 // 0, seconds=5)
    with pytest.raises(TimeoutError, match="the call's own"):
        wait_for(lambda: raised(TimeoutError("the call's own")), seconds=5)
    started = time.monotonic()
    with pytest.raises(NoAnswerError, match=r"^no answer within 0\.2 s$"):
        wait_for(lambda: time.sleep(2), seconds=0.2)
    assert time.monotonic() - started < 1.5


def raised(error):
    """Raise an error."""
    raise error


def test_cut_off_in_the_body(hub):
    """An answer that ends too early is told with what came of it, and nothing of it is kept."""
    hub.server.mode = "cut in body"
    size = len(pipeline(UNET)["unet/config.json"])
    assert hub.read("acme/sd") == {
        "error": f"could not fetch acme/sd: the download stopped after {size // 2} of {size} bytes (connection closed)",
        "hint": f"try again, or {CATALOG}",
        "exit_code": 3,
    }
    assert kept(hub) == []
    # Nor does anything that is left make the next read believe that it has the file.
    hub.server.mode = "ok"
    assert hub.read("acme/sd")["config"] == UNET


def test_copy_stands_in_for_a_file_that_is_cut_off(hub):
    """Where the file of a new commit does not come whole, the copy of the old one is read, with a note."""
    old = hub.read("acme/sd")
    hub.server.repositories["acme/sd"] = Repository(pipeline({**UNET, "sample_size": 16}), branches={"main": "f" * 40})
    hub.server.mode = "cut in body"
    found = hub.read("acme/sd")
    assert (found["config"], found["source"]) == (UNET, old["source"])
    assert found["notes"][0].startswith("the download stopped after ")


def test_hub_that_is_not_there(hub):
    """A refused connection is told at once, not after the client's 23 seconds of trying again."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound and not listening: nobody else answers there either
        endpoint = f"http://127.0.0.1:{taken.getsockname()[1]}"
        started = time.monotonic()
        found = hub.read("acme/sd", env={"HF_ENDPOINT": endpoint})
    assert time.monotonic() - started < 3
    assert found == {
        "error": f"could not fetch acme/sd: {endpoint} did not answer (connection refused)",
        "hint": f"check the connection and HF_ENDPOINT, or {CATALOG}",
        "exit_code": 3,
    }


def test_name_that_nobody_knows(hub):
    """A host without an address is told by its name; ".invalid" is promised never to be one (RFC 2606)."""
    started = time.monotonic()
    found = hub.read("acme/sd", env={"HF_ENDPOINT": "https://hub.invalid"})
    assert time.monotonic() - started < TOLD
    # A machine whose name servers do not answer at all falls silent instead.
    assert found["error"] in (
        "could not fetch acme/sd: could not resolve the hub's host name, hub.invalid",
        "could not fetch acme/sd: https://hub.invalid did not answer (no answer within 3 s)",
    )
    assert "HF_ENDPOINT" in found["hint"]


def test_no_trusted_connection(hub):
    """A server that speaks no TLS where it should is told as that; so is one whose certificate is not trusted."""
    found = hub.read("acme/sd", env={"HF_ENDPOINT": hub.server.address.replace("http:", "https:")})
    assert found["error"].startswith("could not fetch acme/sd: no trusted connection to 127.0.0.1 (")
    assert found["hint"] == (f"if a proxy opens connections, name its certificate: SSL_CERT_FILE=/path/to/certificate.pem, or {CATALOG}")


@pytest.mark.parametrize(
    ("env", "error", "hint"),
    [
        (
            {"SSL_CERT_FILE": "/nowhere/certificate.pem"},
            "could not fetch acme/sd: SSL_CERT_FILE names a file that cannot be read",
            f"unset it or name an existing certificate, or {CATALOG}",
        ),
        (
            {"ALL_PROXY": "gopher://127.0.0.1:1"},
            "could not fetch acme/sd: ALL_PROXY names an unsupported kind of proxy",
            f"use one that starts with http:// or unset ALL_PROXY, or {CATALOG}",
        ),
    ],
    ids=["certificate", "proxy"],
)
def test_settings_that_no_connection_can_be_made_with(hub, env, error, hint):
    """Settings of the HTTP library that it cannot use are told by their names."""
    assert hub.read("acme/sd", env=env) == {"error": error, "hint": hint, "exit_code": 3}


def caused(cause):
    """Return an error of an HTTP library as it comes: with the system's own as its cause."""
    error = Exception("GET https://huggingface.co with the header authorization: Bearer hf_secret")
    error.__cause__ = cause
    return error


def untrusted():
    """Return the error of a certificate that nobody vouches for."""
    error = ssl.SSLCertVerificationError(1, "[SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed")
    error.reason, error.verify_message = "CERTIFICATE_VERIFY_FAILED", "self-signed certificate"
    return error


@pytest.mark.parametrize(
    ("error", "why"),
    [
        (caused(OSError(ENETUNREACH, "Network is unreachable")), "no network connection"),
        (caused(socket.gaierror(-3, "Temporary failure in name resolution")), "could not resolve the hub's host name, huggingface.co"),
        (caused(untrusted()), "no trusted connection to huggingface.co (certificate verify failed: self-signed certificate)"),
        (NoAnswerError("no answer within 3.5 s"), "https://huggingface.co did not answer (no answer within 3.5 s)"),
        (CutOffError("the download stopped after 3 of 8 bytes"), "the download stopped after 3 of 8 bytes"),
        (caused(None), "https://huggingface.co did not answer (Exception)"),
    ],
    ids=["no network", "no name", "no trust", "silence", "cut off", "unknown"],
)
def test_sentences_without_a_network(error, why):
    """What no server here can bring about has its own sentence too, made from the kind of error and never from its text."""
    told = explain(error, repo_id="acme/sd", revision="main", endpoint="https://huggingface.co")
    assert told.message == f"could not fetch acme/sd: {why}"
    assert told.hint is not None
    assert told.hint.endswith(CATALOG)
    assert "hf_secret" not in told.message + told.hint + told.reason


@pytest.mark.parametrize("mode", ["hang", "hang in body"])
def test_interrupt_ends_the_wait(hub, mode):
    """Ctrl-C while the hub is silent ends the program at once, with 130 and a word, before torch was imported."""
    hub.server.mode = mode
    command = [sys.executable, "-X", "importtime", "-m", "unetinspect", "trace", "acme/sd"]
    with subprocess.Popen(command, env=hub.environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        method = {"hang": "HEAD", "hang in body": "GET"}[mode]
        deadline = time.monotonic() + 30
        while not any(asked.method == method for asked in hub.server.requests) and time.monotonic() < deadline:
            time.sleep(0.02)
        time.sleep(0.3)  # so that it waits for the answer, and no longer sends
        interrupted = time.monotonic()
        process.send_signal(signal.SIGINT)
        stdout, stderr = process.communicate(timeout=30)
        took = time.monotonic() - interrupted
    said = [line for line in stderr.splitlines() if not line.startswith("import time:")]
    imported = {line.rpartition("|")[2].strip() for line in stderr.splitlines() if line.startswith("import time:")}
    assert (process.returncode, said, stdout) == (130, ["interrupted"], "")
    assert took < 1.5
    assert "huggingface_hub" in imported
    assert not imported & {"torch", "diffusers"}
