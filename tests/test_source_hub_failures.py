"""A hub that says no, or nothing: each case has its own sentence and hint, and is told soon."""

from __future__ import annotations

import pytest

from tests.hub_server import COMMIT, TOKEN, HubServer, Repository, as_json, pipeline
from tests.hub_user import HubUser

UNET = {"_class_name": "UNet2DConditionModel", "block_out_channels": [32, 64], "sample_size": 8}
VAE = {"_class_name": "AutoencoderKL", "block_out_channels": [8, 8, 8, 8]}
CATALOG = "use a model from the catalog: `unetinspect models`"


@pytest.fixture
def hub(tmp_path):
    """Return a hub with one pipeline, acme/sd."""
    with HubServer({"acme/sd": Repository(pipeline(UNET, VAE))}) as server:
        yield HubUser(server, tmp_path / "home")


def test_token_with_an_illegal_character_is_not_quoted(hub):
    """A token that cannot stand in a header is refused before any request, and not shown."""
    found = hub.read("acme/sd", token=TOKEN + "\nX-Other: 1")
    assert found == {
        "error": "invalid --token: it is empty or contains an illegal character",
        "hint": "paste it whole: hf_...",
        "exit_code": 2,
    }
    assert hub.server.seen() == []


def test_private_or_missing_without_a_token(hub):
    """A repository that the hub does not show may be private, and the hint says how to log in."""
    assert hub.read("acme/nothing") == {
        "error": "the hub has no repository acme/nothing, or it is private and no token was sent",
        "hint": "check the spelling; for a private repository, `hf auth login` or --token",
        "exit_code": 3,
    }


def test_private_or_missing_with_a_token(hub):
    """With a token the sentence says that this token does not open it."""
    assert hub.read("acme/nothing", token=TOKEN) == {
        "error": "the hub has no repository acme/nothing, or it is private and this token cannot read it",
        "hint": "check the spelling",
        "exit_code": 3,
    }


def test_misspelt_id_names_the_close_one(hub):
    """An ID that is nearly one of the catalog's is answered with the right one."""
    found = hub.read("stable-diffusion-v1-5/stable-diffusion-v15", token=TOKEN)
    assert found["hint"].startswith("check the spelling; the catalog has stable-diffusion-v1-5/stable-diffusion-v1-5")


@pytest.mark.parametrize(
    ("token", "as_whom"),
    [(None, ", then `hf auth login` or --token"), (TOKEN, " with the account of this token")],
    ids=["without a token", "with a token"],
)
def test_gated(hub, token, as_whom):
    """A gated repository is told from a missing one, with the page to accept on."""
    hub.server.repositories["acme/gated"] = Repository(pipeline(UNET, VAE), is_gated=True)
    assert hub.read("acme/gated", token=token) == {
        "error": "acme/gated is gated: only accounts that accepted its terms can read it",
        "hint": f"accept them at {hub.server.address}/acme/gated{as_whom}",
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
    # Nor does a copy of a branch stand in that is there no more.
    hub.server.repositories["acme/sd"].branches["dev"] = COMMIT
    assert hub.read("acme/sd", revision="dev")["config"] == UNET
    del hub.server.repositories["acme/sd"].branches["dev"]
    assert hub.read("acme/sd", revision="dev")["error"] == "acme/sd has no revision 'dev'"


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


def test_no_unet_but_checkpoints(hub):
    """A repository of single-file checkpoints is told by the address that reads one, which takes one more question."""
    files = dict.fromkeys(["README.md", "merge-v2.safetensors", "merge-v1.safetensors", "loras/x.safetensors", "old.ckpt"], b"")
    hub.server.repositories["acme/merges"] = Repository(files)
    assert hub.read("acme/merges", revision="main")["hint"] == (
        "it has checkpoints, which are read by their headers: hf://acme/merges@main/merge-v1.safetensors (and 1 more)"
    )
    assert [asked.path for asked in hub.server.requests if "/api/" in asked.path] == ["/api/models/acme/merges/revision/main"]


def test_misses_that_no_hub_reports(hub):
    """A proxy's 404 for everything is no answer of a hub's, and so it is not said that there is no UNet."""
    hub.server.mode = "bare 404"
    hub.server.repositories["acme/other"] = Repository({})
    found = hub.read("acme/other")
    assert found["error"] == f"could not fetch acme/other: {hub.server.address} is not a model hub"
    # A mirror that is as brief, and has the UNet, is believed.
    hub.server.repositories["acme/bare"] = Repository({"config.json": as_json(UNET)})
    assert hub.read("acme/bare")["config"] == UNET


def test_damaged_config(hub):
    """A config that is not JSON is told by file, repository and place."""
    hub.server.repositories["acme/broken"] = Repository({"unet/config.json": b'{"sample_size": 64,}'})
    found = hub.read("acme/broken")
    assert found["error"].startswith("unet/config.json of acme/broken is not valid JSON: ")
    assert (found["exit_code"], "column" in found["error"]) == (2, True)
    # Nor is it kept: the next read may find it mended.
    assert not list(hub.home.rglob("config.json"))


def test_damaged_vae_costs_only_the_factor(hub):
    """A VAE's config that cannot be read leaves the factor unknown, and says so."""
    hub.server.repositories["acme/sd"].files["vae/config.json"] = b"[1]"
    found = hub.read("acme/sd")
    assert (found["config"], found["vae"]) == (UNET, [None, ""])
    assert found["notes"] == [
        "VAE scale factor unknown: vae/config.json of acme/sd contains a list; a config is a mapping of keys to values"
    ]


def test_huge_config_is_not_fetched(hub):
    """A file that no config can be is refused by its size alone."""
    hub.server.repositories["acme/huge"] = Repository({"unet/config.json": b" " * (8 * 1024**2 + 1)})
    assert hub.read("acme/huge")["error"] == "unet/config.json of acme/huge is bigger than 8 MB, too big for a config"
    assert not any(line.startswith("GET") for line in hub.server.seen())


@pytest.mark.parametrize("mode", ["ok", "elsewhere"])
def test_renamed(hub, mode):
    """A repository under its old name is read where the hub sends on to, and a note says what it is called now."""
    hub.server.mode = mode
    hub.server.renamed["acme/old"] = "acme/sd"
    found = hub.read("acme/old")
    assert (found["config"], found["source"], found["vae"]) == (UNET, ["hub", "acme/old", COMMIT, "unet"], [8, "vae/config.json"])
    assert found["notes"] == ["acme/old is now called acme/sd"]
    assert hub.read("acme/old") == found
    # The copies in the cache are found under the name that was asked for.
    assert hub.read("acme/old", offline=True)["config"] == UNET


DISABLED = (403, {"X-Error-Message": "Access to this resource is disabled."})


@pytest.mark.parametrize(
    ("refusal", "what"), [(DISABLED, "disabled {}"), ((410, {}), "removed {}"), ((451, {}), "removed {} for legal reasons")]
)
def test_removed(hub, refusal, what):
    """A repository that the hub has taken away is told from one that never was; a copy of it stands in with a note."""
    hub.read("acme/sd")
    hub.server.repositories["acme/gone"] = Repository({}, refusal=refusal)
    hub.server.repositories["acme/sd"].refusal = refusal
    assert hub.read("acme/gone") == {
        "error": "the hub has " + what.format("acme/gone"),
        "hint": f"its page may say why: {hub.server.address}/acme/gone; use a copy of it, or {CATALOG}",
        "exit_code": 3,
    }
    assert hub.read("acme/sd")["notes"][0].startswith(
        f"the hub has {what.format('the repository')}: read unet/config.json, vae/config.json of ac"
    )


@pytest.mark.parametrize("message", ["Invalid credentials in Authorization header", "Invalid username or password."])
def test_wrong_token(hub, message):
    """A token that the hub does not know is told as that, and not as a repository that is not there."""
    hub.server.repositories["acme/sd"].refusal = (401, {"X-Error-Message": message})
    found = hub.read("acme/sd", token=TOKEN)
    assert found == {
        "error": "the hub rejected the token for acme/sd (401): it is invalid or expired",
        "hint": f"create one at {hub.server.address}/settings/tokens, then `hf auth login` or --token; "
        "a public model needs none: `hf auth logout`",
        "exit_code": 3,
    }
    # The same of a token that was not typed: in the environment, or from a login.
    assert hub.read("acme/sd", env={"HF_TOKEN": TOKEN}) == found


def test_token_is_not_kept(hub):
    """No file of the cache has the token in it."""
    hub.server.repositories["acme/sd"].token = TOKEN
    assert hub.read("acme/sd", token=TOKEN)["config"] == UNET
    files = [file for file in hub.home.rglob("*") if file.is_file()]
    assert files
    assert not any(TOKEN.encode() in file.read_bytes() or TOKEN in str(file) for file in files)


@pytest.mark.parametrize(
    ("headers", "token", "hint"),
    [
        ({}, None, "wait a few minutes and try again, or log in for a higher limit: `hf auth login`"),
        ({"Retry-After": "120"}, TOKEN, "wait 120 s and try again"),
        ({"RateLimit": '"api";r=0;t=55', "RateLimit-Policy": '"fixed window";"api";q=500;w=300'}, TOKEN, "wait 55 s and try again"),
        ({"Retry-After": "Wed, 21 Oct 2015 07:28:00 GMT"}, TOKEN, "wait a few minutes and try again"),
    ],
    ids=["without a word", "Retry-After", "RateLimit", "a date"],
)
def test_rate_limited(hub, headers, token, hint):
    """A 429 says how long to wait, where the hub does; it is not tried again by itself."""
    hub.server.mode, hub.server.headers = "429", headers
    assert hub.read("acme/sd", token=token) == {
        "error": "could not fetch acme/sd: the hub's rate limit is reached (429)",
        "hint": hint,
        "exit_code": 3,
    }
    assert hub.server.seen() == ["HEAD main unet/config.json"]


def test_hub_that_fails(hub):
    """A 5xx is the hub's own trouble: one request, and what to do until it is over."""
    hub.server.mode = "500"
    assert hub.read("acme/sd") == {
        "error": f"could not fetch acme/sd: {hub.server.address} returned error 500",
        "hint": f"try again in a minute; or unset HF_ENDPOINT; or {CATALOG}",
        "exit_code": 3,
    }
    assert hub.server.seen() == ["HEAD main unet/config.json"]


def test_hub_that_fails_at_the_file(hub):
    """Where the metadata is answered and the file is not, that is the hub's own trouble too, and it is not tried again."""
    hub.server.mode = "500 on get"
    assert hub.read("acme/sd")["error"] == f"could not fetch acme/sd: {hub.server.address} returned error 500"
    assert [line.split()[0] for line in hub.server.seen()] == ["HEAD", "GET"]


def test_no_hub_there(hub):
    """Where something else answers, a guest network's page, it is told as no hub."""
    hub.server.mode = "page"
    assert hub.read("acme/sd") == {
        "error": f"could not fetch acme/sd: {hub.server.address} is not a model hub",
        "hint": f"check the connection and HF_ENDPOINT, or {CATALOG}",
        "exit_code": 3,
    }


@pytest.mark.parametrize("headers", [{"ETag": '"../../../outside"'}, {"X-Repo-Commit": "../../outside"}, {"ETag": '""'}], ids=str)
def test_names_that_lead_out_of_the_cache(hub, tmp_path, headers):
    """What a server calls a commit becomes a folder in the cache, so one that leads out of it is refused; its name for a file does not."""
    good = {"ETag": '"abc"', "X-Repo-Commit": COMMIT}
    hub.server.repositories["acme/sd"].refusal = (200, good | headers)
    found = hub.read("acme/sd")
    assert found["error"].endswith(" is not a model hub" if "X-Repo-Commit" in headers else "unet/config.json of acme/sd is empty")
    assert not list(tmp_path.rglob("*outside*"))


def test_cache_that_cannot_be_written(hub):
    """Where the cache is no folder that could be written to, the model is read all the same, and a note says what is wrong."""
    hub.home.write_text("a file in the way")
    found = hub.read("acme/sd")
    assert (found["config"], found["vae"]) == (UNET, [8, "vae/config.json"])
    assert found["notes"] == ["could not write the hub's cache (not a directory): acme/sd is not kept; set HF_HOME to another folder"]


def test_endpoint_that_is_no_address(hub):
    """A wrong HF_ENDPOINT is told as that."""
    assert hub.read("acme/sd", env={"HF_ENDPOINT": "my-mirror"}) == {
        "error": "HF_ENDPOINT is 'my-mirror', which is not an address",
        "hint": "unset it, or write it as https://huggingface.co",
        "exit_code": 3,
    }
