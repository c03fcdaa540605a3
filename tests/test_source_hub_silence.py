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
from unetinspect.source.hub_errors import CutOffError, NoAnswerError, Question, explain
from unetinspect.source.waiting import wait_for

UNET = {"_class_name": "UNet2DConditionModel", "block_out_channels": [32, 64], "sample_size": 8}
CATALOG = "name a model of the catalog: `unetinspect models`"
# Five seconds, and what a process takes to start while the other tests run beside it.
TOLD = 5 + 3
QUESTION = Question(repo_id="acme/sd", revision="main", endpoint="https://huggingface.co", has_token=False)


@pytest.fixture
def hub(tmp_path):
    """Return a hub with one pipeline, acme/sd."""
    with HubServer({"acme/sd": Repository(pipeline(UNET, {"block_out_channels": [1, 2]}))}) as server:
        yield HubUser(server, tmp_path / "home")


def blobs(hub):
    """List the whole and the half files that the cache holds."""
    return [file for file in hub.home.rglob("*") if file.is_file() and "blobs" in file.parts]


@pytest.mark.parametrize("mode", ["hang", "trickle", "hang in body"])
def test_hub_that_falls_silent(hub, mode):
    """A hub that does not answer, answers a letter at a time or stops in the middle of a file is given up within five seconds."""
    hub.server.mode = mode
    started = time.monotonic()
    found = hub.read("acme/sd")
    assert time.monotonic() - started < TOLD
    assert (found["exit_code"], found["error"].startswith("acme/sd could not be fetched: ")) == (3, True)
    if mode == "hang in body":
        size = len(pipeline(UNET)["unet/config.json"])
        assert found["error"].endswith(f"its answer was cut off: it fell silent after {size // 2} of {size} bytes")
        assert blobs(hub) == []
    else:
        # Which of the two deadlines ends it, that of the socket or that of the whole, a busy machine may decide.
        assert found["error"].endswith((f"{hub.server.address} did not answer (no answer within 3 s)", "(timed out)"))


def test_slow_is_not_silent():
    """What goes on coming is waited for past the silence that is allowed, and only up to the deadline of the whole."""

    def steps(beat, *pauses):
        for pause in pauses:
            time.sleep(pause)
            beat()
        return "done"

    assert wait_for(lambda beat: steps(beat, *[0.1] * 6), silence=0.4, seconds=5) == "done"
    started = time.monotonic()
    with pytest.raises(NoAnswerError, match=r"^it was not done within 0\.5 s$"):
        wait_for(lambda beat: steps(beat, *[0.1] * 50), silence=0.4, seconds=0.5)
    with pytest.raises(NoAnswerError, match=r"^no answer within 0\.2 s$"):
        wait_for(lambda beat: steps(beat, 2), silence=0.2, seconds=5)
    with pytest.raises(NoAnswerError, match=r"^it fell silent$"):
        wait_for(lambda beat: steps(beat, 0, 2), silence=0.2, seconds=5)
    assert time.monotonic() - started < 1.9


def test_what_is_waited_for_may_raise():
    """An error in the thread is raised in the one that waits."""
    with pytest.raises(ZeroDivisionError):
        wait_for(lambda _: 1 // 0, silence=5, seconds=5)


def test_cut_off_in_the_body(hub):
    """An answer that ends too early is told with what came of it, and nothing of it is kept."""
    hub.server.mode = "cut in body"
    size = len(pipeline(UNET)["unet/config.json"])
    assert hub.read("acme/sd") == {
        "error": f"acme/sd could not be fetched: its answer was cut off: the connection broke off after {size // 2} of {size} bytes",
        "hint": f"try again, or {CATALOG}",
        "exit_code": 3,
    }
    assert blobs(hub) == []
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
    assert found["notes"][0].startswith("the hub could not be read: its answer was cut off: the connection broke off after ")


def test_hub_that_is_not_there(hub):
    """A refused connection is told at once, not after the client's 23 seconds of trying again."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound and not listening: nobody else answers there either
        endpoint = f"http://127.0.0.1:{taken.getsockname()[1]}"
        started = time.monotonic()
        found = hub.read("acme/sd", env={"HF_ENDPOINT": endpoint})
    assert time.monotonic() - started < 3
    assert found == {
        "error": f"acme/sd could not be fetched: {endpoint} did not answer (connection refused)",
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
        "acme/sd could not be fetched: the address of hub.invalid was not found",
        "acme/sd could not be fetched: https://hub.invalid did not answer (no answer within 3 s)",
    )
    assert "HF_ENDPOINT" in found["hint"]


def test_no_trusted_connection(hub):
    """A server that speaks no TLS where it should is told as that; so is one whose certificate is not trusted."""
    found = hub.read("acme/sd", env={"HF_ENDPOINT": hub.server.address.replace("http:", "https:")})
    assert found["error"].startswith("acme/sd could not be fetched: there is no trusted connection to 127.0.0.1 (")
    assert found["hint"] == (f"where a proxy opens connections, name its certificate: SSL_CERT_FILE=/path/to/certificate.pem, or {CATALOG}")


@pytest.mark.parametrize(
    ("env", "error", "hint"),
    [
        (
            {"SSL_CERT_FILE": "/nowhere/certificate.pem"},
            "acme/sd could not be fetched: SSL_CERT_FILE names a file that cannot be read",
            f"unset it, or name a certificate that is there, or {CATALOG}",
        ),
        (
            {"ALL_PROXY": "gopher://127.0.0.1:1"},
            "acme/sd could not be fetched: the proxy that ALL_PROXY names is of a kind that cannot be used",
            f"name one that starts with http://, unset ALL_PROXY, or {CATALOG}",
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
        (caused(OSError(ENETUNREACH, "Network is unreachable")), "there is no network"),
        (caused(socket.gaierror(-3, "Temporary failure in name resolution")), "the address of huggingface.co was not found"),
        (caused(untrusted()), "there is no trusted connection to huggingface.co (certificate verify failed: self-signed certificate)"),
        (NoAnswerError("no answer within 3.5 s"), "https://huggingface.co did not answer (no answer within 3.5 s)"),
        (CutOffError("3 of 8 bytes came"), "its answer was cut off: 3 of 8 bytes came"),
        (caused(None), "https://huggingface.co did not answer (Exception)"),
    ],
    ids=["no network", "no name", "no trust", "silence", "cut off", "unknown"],
)
def test_sentences_without_a_network(error, why):
    """What no server here can bring about has its own sentence too, made from the kind of error and never from its text."""
    told = explain(error, QUESTION)
    assert told.message == f"acme/sd could not be fetched: {why}"
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
