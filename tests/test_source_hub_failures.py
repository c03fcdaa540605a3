"""A hub that says no, or nothing: each case has its own sentence and hint, and is told soon."""

from __future__ import annotations

import socket
import time

import pytest

from tests.hub_server import TOKEN, HubServer, HubUser, Repository, as_json, pipeline

UNET = {"_class_name": "UNet2DConditionModel", "block_out_channels": [32, 64], "sample_size": 8}
VAE = {"_class_name": "AutoencoderKL", "block_out_channels": [8, 8, 8, 8]}


@pytest.fixture
def hub(tmp_path):
    """Return a hub with one pipeline, acme/sd."""
    with HubServer({"acme/sd": Repository(pipeline(UNET, VAE))}) as server:
        yield HubUser(server, tmp_path / "home")


def test_token_with_an_illegal_character_is_not_quoted(hub):
    """A token that cannot stand in a header is refused before any request, and not shown."""
    found = hub.read("acme/sd", token=TOKEN + "\nX-Other: 1")
    assert found == {
        "error": "--token is not a token: it is empty, or holds a character that no token has",
        "hint": "paste it whole: hf_...",
        "exit_code": 2,
    }
    assert hub.server.seen() == []


def test_private_or_missing_without_a_token(hub):
    """A repository that the hub does not show may be private, and the hint says how to log in."""
    assert hub.read("acme/nothing") == {
        "error": "the hub has no repository acme/nothing, or it is private, and no token was sent",
        "hint": "check the spelling; for a private repository log in with `hf auth login`, or pass --token",
        "exit_code": 3,
    }


def test_private_or_missing_with_a_token(hub):
    """With a token the sentence says that this token does not open it."""
    assert hub.read("acme/nothing", token=TOKEN) == {
        "error": "the hub has no repository acme/nothing, or it is private and not open to the token that was sent",
        "hint": "check the spelling",
        "exit_code": 3,
    }


def test_misspelt_id_names_the_close_one(hub):
    """An ID that is nearly one of the catalog's is answered with the right one."""
    found = hub.read("stable-diffusion-v1-5/stable-diffusion-v15", token=TOKEN)
    assert found["hint"].startswith("check the spelling; the catalog has stable-diffusion-v1-5/stable-diffusion-v1-5")


@pytest.mark.parametrize(
    ("token", "then"),
    [(None, "then log in with `hf auth login`, or pass --token"), (TOKEN, "with the account of the token that was sent")],
    ids=["without a token", "with a token"],
)
def test_gated(hub, token, then):
    """A gated repository is told from a missing one, with the page to accept on."""
    hub.server.repositories["acme/gated"] = Repository(pipeline(UNET, VAE), is_gated=True)
    assert hub.read("acme/gated", token=token) == {
        "error": "acme/gated is gated: its files are open to those who accepted its terms",
        "hint": f"accept them on {hub.server.address}/acme/gated, {then}",
        "exit_code": 3,
    }


def test_revision_not_found(hub):
    """A revision that the repository lacks is an error, even where a copy of another one is in the cache."""
    hub.read("acme/sd")
    assert hub.read("acme/sd", revision="fp17") == {
        "error": "acme/sd has no revision 'fp17'",
        "hint": f"its branches and tags: {hub.server.address}/acme/sd/tree/main",
        "exit_code": 3,
    }


def test_no_unet_names_what_is_there(hub):
    """A repository with another kind of denoiser says which."""
    index = {
        "_class_name": "FluxPipeline",
        "scheduler": ["diffusers", "FlowMatchEulerDiscreteScheduler"],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "transformer": ["diffusers", "FluxTransformer2DModel"],
        "vae": ["diffusers", "AutoencoderKL"],
    }
    hub.server.repositories["acme/flux"] = Repository({"model_index.json": as_json(index)})
    found = hub.read("acme/flux")
    assert found["error"] == "no UNet here: in acme/flux, `transformer` is FluxTransformer2DModel"
    assert "UNet2DConditionModel" in found["hint"]
    assert found["exit_code"] == 3


def test_no_unet_in_a_language_model(hub):
    """A repository of a transformers model is known by its architecture."""
    hub.server.repositories["acme/bert"] = Repository({"config.json": as_json({"architectures": ["BertModel"], "model_type": "bert"})})
    assert hub.read("acme/bert")["error"] == "no UNet here: the config.json of acme/bert is of BertModel"


def test_no_unet_in_a_repository_without_configs(hub):
    """A repository with none of the files is told so."""
    hub.server.repositories["acme/empty"] = Repository({"README.md": b""})
    assert hub.read("acme/empty")["error"] == "no UNet here: acme/empty has no unet/config.json, config.json or model_index.json"


def test_misses_that_no_hub_reports(hub):
    """A proxy's 404 for everything is no answer of a hub's, and so it is not said that there is no UNet."""
    hub.server.mode = "bare 404"
    hub.server.repositories["acme/other"] = Repository({})
    found = hub.read("acme/other")
    why = "it has no file, and does not say so as a hub does"
    assert found["error"] == f"acme/other could not be fetched: {hub.server.address} did not answer ({why})"
    # A mirror that is as brief, and has the UNet, is believed.
    hub.server.repositories["acme/bare"] = Repository({"config.json": as_json(UNET)})
    assert hub.read("acme/bare")["config"] == UNET


def test_damaged_config(hub):
    """A config that is not JSON is told by file, repository and place."""
    hub.server.repositories["acme/broken"] = Repository({"unet/config.json": b'{"sample_size": 64,}'})
    found = hub.read("acme/broken")
    assert found["error"].startswith("unet/config.json of acme/broken is not valid JSON: ")
    assert (found["exit_code"], "column" in found["error"]) == (2, True)


def test_damaged_vae_costs_only_the_factor(hub):
    """A VAE's config that cannot be read leaves the factor unknown, and says so."""
    hub.server.repositories["acme/sd"].files["vae/config.json"] = b"[1]"
    found = hub.read("acme/sd")
    assert (found["config"], found["vae"]) == (UNET, [None, ""])
    assert found["notes"] == [
        "the VAE's factor is not known: vae/config.json of acme/sd holds a list, and a config is a mapping of keys to values"
    ]


def test_huge_config_is_not_fetched(hub):
    """A file that no config can be is refused by its size alone."""
    hub.server.repositories["acme/huge"] = Repository({"unet/config.json": b" " * (8 * 1024**2 + 1)})
    assert hub.read("acme/huge")["error"] == "unet/config.json of acme/huge is bigger than 8 MB, and no config is"
    assert not any(line.startswith("GET") for line in hub.server.seen())


@pytest.mark.parametrize(
    ("mode", "why"),
    [
        ("500", "error 500"),
        ("429", "429: too many requests"),
        ("hang", "no answer within 3.5 s"),
        ("trickle", "no answer within 3.5 s"),
        ("page", "what is there is not a model hub"),
    ],
)
def test_hub_that_does_not_answer(hub, mode, why):
    """A hub that fails, hangs, trickles or is none is told in one sentence within five seconds."""
    hub.server.mode = mode
    started = time.monotonic()
    found = hub.read("acme/sd")
    assert time.monotonic() - started < 6.5  # five seconds and a Python's start
    why = "timed out" if found["error"].endswith("(timed out)") and mode == "hang" else why
    assert found == {
        "error": f"acme/sd could not be fetched: {hub.server.address} did not answer ({why})",
        "hint": "check the connection and HF_ENDPOINT, or name a model of the catalog: `unetinspect models`",
        "exit_code": 3,
    }


def test_hub_that_is_not_there(hub):
    """A refused connection is told at once, not after the client's 23 seconds of trying again."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound and not listening: nobody else answers there either
        started = time.monotonic()
        found = hub.read("acme/sd", env={"HF_ENDPOINT": f"http://127.0.0.1:{taken.getsockname()[1]}"})
    assert time.monotonic() - started < 3
    assert found["error"].endswith("did not answer (connection refused)")
    assert found["exit_code"] == 3


def test_cache_that_cannot_be_written(hub):
    """A cache folder that is a file is told as that, and not as a missing network."""
    hub.home.write_text("a file in the way")
    found = hub.read("acme/sd")
    assert found["error"].startswith("acme/sd could not be stored in the hub's cache: ")
    assert found["hint"] == "set HF_HOME to a folder that you may write"


def test_endpoint_that_is_no_address(hub):
    """A wrong HF_ENDPOINT is told as that."""
    assert hub.read("acme/sd", env={"HF_ENDPOINT": "my-mirror"}) == {
        "error": "HF_ENDPOINT is 'my-mirror', which is not an address",
        "hint": "unset it, or write it as https://huggingface.co",
        "exit_code": 3,
    }
