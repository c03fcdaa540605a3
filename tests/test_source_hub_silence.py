"""A hub that cannot be asked, or does not end what it began: one sentence within five seconds."""

from __future__ import annotations

import signal
import socket
import ssl
import subprocess
import sys
import time
from errno import ENETUNREACH

import pytest

from tests.hub_server import HubServer, HubUser, Repository, pipeline
from unetinspect.source import hub as source_hub
from unetinspect.source.hub import read_body, wait_for
from unetinspect.source.hub_errors import CutOffError, NoAnswerError, explain

FILES = pipeline({"_class_name": "UNet2DConditionModel", "sample_size": 8})
CATALOG = "use a model from the catalog: `unetinspect models`"
# What another process may delay the answer by.
SLACK = 1.5


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """Return a user of a hub with one pipeline, acme/sd."""
    with HubServer({"acme/sd": Repository(FILES)}) as server:
        yield HubUser(server, tmp_path / "home", monkeypatch)


@pytest.mark.parametrize("mode", ["hang", "trickle", "hang in body"])
def test_hub_that_falls_silent(hub, mode, monkeypatch):
    """A hub that does not answer, answers a byte at a time or stops in a file is given up within five seconds: here, within one."""
    hub.server.mode = mode
    for name in ("_SOCKET_TIMEOUT", "_HEAD_SECONDS", "_GET_SECONDS", "_CONFIG_SECONDS"):
        monkeypatch.setattr(source_hub, name, getattr(source_hub, name) / 5)
    started = time.monotonic()
    message, _ = hub.refusal("acme/sd")
    assert time.monotonic() - started < 5 / 5 + SLACK
    assert hub.kept() == []
    if mode == "hang in body":
        size = len(FILES["unet/config.json"])
        assert message == f"could not fetch acme/sd: the download stopped after {size // 2} of {size} bytes (timed out)"
    else:
        # Either the deadline of the socket or that of the whole answer.
        silent = f"could not fetch acme/sd: {hub.server.address} did not answer "
        assert message in (f"{silent}within 0.6 s", f"{silent}(timed out)")


class Drip:
    """An answer that comes a byte at a time."""

    is_closed = False

    def __init__(self, count):
        self.count = count

    def iter_bytes(self):
        for _ in range(self.count):
            time.sleep(0.02)
            yield b"x"

    def close(self):
        self.is_closed = True


def test_slow_drip_is_bounded():
    """A body that keeps coming is waited for, but not past its deadline, and its connection is closed."""
    assert read_body(Drip(6), 6, is_known=True, seconds=5) == b"xxxxxx"
    assert read_body(Drip(3), 6, is_known=False, seconds=5) == b"xxx"
    with pytest.raises(CutOffError, match=r"^the download stopped after 3 of 6 bytes \(connection closed\)$"):
        read_body(Drip(3), 6, is_known=True, seconds=5)
    drip = Drip(100)
    with pytest.raises(CutOffError, match=r"^the download stopped after \d+ of 100 bytes \(time limit of 0.2 s\)$"):
        read_body(drip, 100, is_known=True, seconds=0.2)
    assert drip.is_closed


def test_wait_has_a_deadline():
    """A call is waited for until its deadline; what it returns or raises in time is passed on."""

    def late():
        raise TimeoutError("the call's own")

    assert wait_for(lambda: "done", seconds=5) == "done"
    with pytest.raises(TimeoutError, match="the call's own"):
        wait_for(late, seconds=5)
    started = time.monotonic()
    with pytest.raises(NoAnswerError, match=r"^within 0\.2 s$"):
        wait_for(lambda: time.sleep(2), seconds=0.2)
    assert time.monotonic() - started < SLACK


def test_hub_that_is_not_there(hub):
    """A refused connection is an error at once, not after the client's 23 seconds of retries."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))  # bound and not listening: nobody else answers there either
        endpoint = f"http://127.0.0.1:{free.getsockname()[1]}"
        hub.use_endpoint(endpoint)
        started = time.monotonic()
        said = hub.refusal("acme/sd")
    assert time.monotonic() - started < SLACK
    why = f"could not fetch acme/sd: {endpoint} did not answer (connection refused)"
    assert said == (why, f"check the connection and HF_ENDPOINT, or {CATALOG}")


def test_endpoints_that_are_wrong(hub):
    """A text that is not an address, a host that does not exist, and a server without TLS have a sentence each."""
    hub.use_endpoint("my-mirror")
    wrong = "HF_ENDPOINT is 'my-mirror', which is not an address"
    assert hub.refusal("acme/sd") == (wrong, "unset it, or write it as https://huggingface.co")
    # ".invalid" never exists (RFC 2606); without name servers the system does not answer at all.
    hub.use_endpoint("https://hub.invalid")
    message, hint = hub.refusal("acme/sd")
    absent, silent = "could not resolve the hub's host name, hub.invalid", "https://hub.invalid did not answer within 3 s"
    assert message in (f"could not fetch acme/sd: {absent}", f"could not fetch acme/sd: {silent}")
    assert "HF_ENDPOINT" in hint
    hub.use_endpoint(hub.server.address.replace("http:", "https:"))
    message, hint = hub.refusal("acme/sd")
    assert message.startswith("could not fetch acme/sd: no trusted connection to 127.0.0.1 (")
    assert hint == f"if a proxy opens connections, name its certificate: SSL_CERT_FILE=/path/to/certificate.pem, or {CATALOG}"


@pytest.mark.parametrize(
    ("variable", "value", "why", "hint"),
    [
        ("SSL_CERT_FILE", "/nowhere/certificate.pem", "names a file that cannot be read", "unset it or name an existing certificate"),
        ("ALL_PROXY", "gopher://x", "names an unsupported kind of proxy", "use one that starts with http:// or unset ALL_PROXY"),
    ],
)
def test_settings_that_no_connection_can_be_made_with(hub, monkeypatch, variable, value, why, hint):
    """Settings that the HTTP library cannot use are named."""
    from huggingface_hub import close_session

    monkeypatch.setenv(variable, value)
    close_session()  # the next one reads its settings
    assert hub.refusal("acme/sd") == (f"could not fetch acme/sd: {variable} {why}", f"{hint}, or {CATALOG}")
    close_session()


def caused(cause):
    """Return an error of an HTTP library, with the system's own as its cause."""
    error = Exception("GET https://huggingface.co with the header authorization: Bearer hf_secret")
    error.__cause__ = cause
    return error


def untrusted():
    """Return the error of a certificate that is not trusted."""
    error = ssl.SSLCertVerificationError(1, "[SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed")
    error.reason, error.verify_message = "CERTIFICATE_VERIFY_FAILED", "self-signed certificate"
    return error


@pytest.mark.parametrize(
    ("error", "why"),
    [
        (caused(OSError(ENETUNREACH, "Network is unreachable")), "no network connection"),
        (caused(socket.gaierror(-3, "Temporary failure in name resolution")), "could not resolve the hub's host name, huggingface.co"),
        (caused(untrusted()), "no trusted connection to huggingface.co (certificate verify failed: self-signed certificate)"),
        (NoAnswerError("within 3 s"), "https://huggingface.co did not answer within 3 s"),
        (CutOffError("the download stopped after 3 of 8 bytes"), "the download stopped after 3 of 8 bytes"),
        (caused(None), "https://huggingface.co did not answer (Exception)"),
    ],
    ids=["no network", "no name", "no trust", "silence", "cut off", "unknown"],
)
def test_sentences_without_a_network(error, why):
    """What no server here can cause has its own sentence too, made from the kind of error and never from its text."""
    told = explain(error, repo_id="acme/sd", revision="main", endpoint="https://huggingface.co")
    assert (told.message, told.reason) == (f"could not fetch acme/sd: {why}", why)
    assert str(told.hint).endswith(CATALOG)
    assert "hf_secret" not in f"{told.message}{told.hint}"


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
