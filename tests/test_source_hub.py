"""Reading from a hub: a real client in a process of its own, against a server on this machine. Nothing is mocked."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.hub_server import COMMIT, TOKEN, HubServer, Repository, as_json, pipeline
from tests.hub_user import HubUser

UNET = {"_class_name": "UNet2DConditionModel", "block_out_channels": [32, 64], "sample_size": 8}
VAE = {"_class_name": "AutoencoderKL", "block_out_channels": [8, 8, 8, 8]}
OTHER_COMMIT = "f" * 40
SD15 = "stable-diffusion-v1-5/stable-diffusion-v1-5"


@pytest.fixture
def hub(tmp_path):
    """Return a hub with one pipeline, acme/sd."""
    with HubServer({"acme/sd": Repository(pipeline(UNET, VAE))}) as server:
        yield HubUser(server, tmp_path / "home")


def test_reads_the_unet_and_the_vae_at_one_commit(hub):
    """A hub ID brings the UNet's config, the commit and the VAE's factor, with one HEAD and one GET for each of these two files."""
    assert hub.read("acme/sd") == {
        "name": "acme/sd",
        "config": UNET,
        "source": ["hub", "acme/sd", COMMIT, "unet"],
        "vae": [8, "vae/config.json"],
        "notes": [],
    }
    asked = [f"{method} unet/config.json" for method in ("HEAD main", f"GET {COMMIT}")]
    assert hub.server.seen() == asked + [f"{method} {COMMIT} vae/config.json" for method in ("HEAD", "GET")]


def test_second_read_asks_only_whether_the_branch_moved(hub):
    """What is in the cache is not fetched again: one HEAD tells that the branch stands where it stood."""
    first = hub.read("acme/sd")
    hub.server.seen()
    assert hub.read("acme/sd") == first
    assert hub.server.seen() == ["HEAD main unet/config.json"]


def test_moved_branch_is_read_anew(hub):
    """A new commit on the branch is seen by the next read, whatever the cache holds."""
    hub.read("acme/sd")
    changed = {**UNET, "sample_size": 16}
    hub.server.repositories["acme/sd"] = Repository(pipeline(changed, VAE), branches={"main": OTHER_COMMIT})
    found = hub.read("acme/sd")
    assert (found["config"], found["source"][2]) == (changed, OTHER_COMMIT)


def test_cached_commit_needs_no_request(hub):
    """A commit cannot change, so a copy of it is read without a question."""
    hub.read("acme/sd", revision=COMMIT)
    hub.server.seen()
    assert hub.read("acme/sd", revision=COMMIT)["config"] == UNET
    assert hub.server.seen() == []


@pytest.mark.parametrize(
    "model", ["hf://acme/sd@dev/unet", "{endpoint}/acme/sd/tree/dev/unet", "{endpoint}/acme/sd/blob/dev/unet/config.json"]
)
def test_addresses_name_revision_and_folder(hub, model):
    """An hf:// address and a pasted page of whatever HF_ENDPOINT is mean the revision and the folder in them."""
    hub.server.repositories["acme/sd"].branches["dev"] = OTHER_COMMIT
    found = hub.read(model.format(endpoint=hub.server.address))
    assert found["source"] == ["hub", "acme/sd", OTHER_COMMIT, "unet"]
    assert hub.server.seen()[0] == "HEAD dev unet/config.json"


def test_unet_at_the_root(hub):
    """A repository that is a UNet is read at its root, and no VAE is guessed."""
    hub.server.repositories["acme/ddpm"] = Repository({"config.json": as_json({"_class_name": "UNet2DModel"})})
    found = hub.read("acme/ddpm")
    assert found["source"] == ["hub", "acme/ddpm", COMMIT, None]
    assert found["vae"] == [None, ""]


def test_component_and_vae_under_other_names(hub):
    """The component that model_index.json names is the UNet, and the VQ model that it names says the factor."""
    index = {
        "_class_name": "UnCLIPPipeline",
        "decoder": ["diffusers", "UNet2DConditionModel"],
        "movq": ["diffusers", "VQModel"],
        "vqvae": [None, None],
    }
    files = {
        "model_index.json": index,
        "decoder/config.json": {"block_out_channels": [1, 2]},
        "movq/config.json": {"block_out_channels": [1, 2, 3]},
    }
    hub.server.repositories["acme/karlo"] = Repository({path: as_json(value) for path, value in files.items()})
    found = hub.read("acme/karlo")
    # The config itself names no class; the index does.
    assert found["config"] == {"_class_name": "UNet2DConditionModel", "block_out_channels": [1, 2]}
    assert found["source"][3] == "decoder"
    assert found["vae"] == [4, "movq/config.json"]


def test_subfolder_is_taken_as_asked(hub):
    """--subfolder reads that folder's config, whatever class it is of."""
    found = hub.read("acme/sd", subfolder="vae")
    assert (found["config"], found["source"][3]) == (VAE, "vae")


def test_token_is_sent_and_never_shown(hub):
    """--token and HF_TOKEN open a private repository, go out as a bearer header, and are in no output."""
    hub.server.repositories["acme/secret"] = Repository(pipeline(UNET, VAE), token=TOKEN)
    assert hub.read("acme/secret", token=TOKEN)["config"] == UNET
    assert {asked.authorization for asked in hub.server.requests} == {f"Bearer {TOKEN}"}
    hub.home = hub.home.with_name("fresh")
    assert hub.read("acme/secret", env={"HF_TOKEN": TOKEN})["config"] == UNET


def test_copy_stands_in_for_a_hub_that_does_not_answer(hub):
    """A copy in the cache is read when the hub fails, its commit is known, and a note says so."""
    first = hub.read("acme/sd")
    hub.server.mode = "500"
    hub.server.seen()
    copied = "read unet/config.json, vae/config.json of acme/sd from the cache, commit 0123456"
    assert hub.read("acme/sd") == {**first, "notes": [f"the hub returned error 500: {copied}"]}
    # Once it failed, the hub is not asked for the VAE too.
    assert hub.server.seen() == ["HEAD main unet/config.json"]


def test_copy_stands_in_for_a_repository_that_was_closed(hub):
    """A repository that was gated after it was read is still read from the cache."""
    hub.read("acme/sd")
    hub.server.repositories["acme/sd"].is_gated = True
    assert hub.read("acme/sd")["notes"][0].startswith(
        "the repository is gated: read unet/config.json, vae/config.json of acme/sd from the cache"
    )


def test_hub_that_dies_after_the_unet(hub):
    """Where the hub stops answering at the VAE, the UNet is read and the factor is not known."""
    hub.server.repositories["acme/sd"] = Repository({"unet/config.json": as_json(UNET)})
    hub.read("acme/sd")
    hub.server.mode = "500"
    found = hub.read("acme/sd", revision=COMMIT)
    assert (found["config"], found["vae"]) == (UNET, [None, ""])
    assert found["notes"] == ["the hub returned error 500: the VAE's config of acme/sd was not read"]


@pytest.mark.parametrize(("env", "offline", "why"), [({}, True, "--offline"), ({"HF_HUB_OFFLINE": "1"}, False, "HF_HUB_OFFLINE")])
def test_offline_opens_no_socket(hub, env, offline, why):
    """Offline the cache answers, what it lacks is an error, and the server sees nothing."""
    first = hub.read("acme/sd")
    hub.server.seen()
    copied = "read unet/config.json, vae/config.json of acme/sd from the cache, commit 0123456"
    assert hub.read("acme/sd", env=env, offline=offline) == {**first, "notes": [f"offline ({why}): {copied}"]}
    assert hub.read("acme/other", env=env, offline=offline) == {
        "error": f"acme/other is not in the hub's cache on this machine, and {why} allows no download",
        "hint": "go online once, or use a model from the catalog: `unetinspect models`",
        "exit_code": 3,
    }
    assert hub.server.seen() == []


def test_bundled_config_stands_in_offline(hub):
    """A hub ID that the catalog knows is read offline too, and a note says what was read."""
    found = hub.read(SD15, offline=True)
    assert (found["name"], found["source"], found["vae"]) == ("sd15", ["catalog", SD15, None, "unet"], [8, "catalog"])
    assert found["config"]["cross_attention_dim"] == 768
    assert found["notes"] == [f"offline (--offline): for {SD15} the bundled config of sd15 was used"]
    assert hub.server.seen() == []


def test_bundled_config_stands_in_for_a_model_that_is_gone(hub):
    """A hub ID that no longer answers is read from the catalog, with what became of it."""
    found = hub.read("runwayml/stable-diffusion-v1-5")
    assert found["config"]["_class_name"] == "UNet2DConditionModel"
    note = "the hub has no such repository: for runwayml/stable-diffusion-v1-5 the bundled config of sd15 was used (removed in 2024; "
    assert found["notes"][0].startswith(note)


def test_bundled_config_does_not_stand_in_for_another_folder(hub):
    """The catalog's UNet is not shown for a folder that is not its own."""
    assert hub.read(SD15, offline=True, subfolder="text_encoder")["exit_code"] == 3


def test_two_runs_at_once_on_one_cache(hub):
    """Readers of the same files, at the same time, leave them whole in the cache, and nothing half-written beside them."""
    hub.server.repositories["acme/sd"].branches |= {f"b{number}": f"{number:040x}" for number in range(30)}
    code = """
from unetinspect.source import read_model
for number in range(30):
    assert read_model("acme/sd", revision=f"b{number}").source.revision == f"{number:040x}"
"""
    runs = [subprocess.Popen([sys.executable, "-c", code], env=hub.environment()) for _ in range(2)]
    assert [run.wait(60) for run in runs] == [0, 0]
    files = [file for file in hub.home.rglob("*") if file.is_file()]
    assert len(files) == 30 * (2 + 1)
    assert {file.read_bytes() for file in files if file.suffix == ".json"} == {as_json(UNET), as_json(VAE)}
    assert {file.stat().st_mode & 0o044 for file in files} == {hub.home.stat().st_mode & 0o044}


def test_the_client_itself_reads_what_is_kept(hub):
    """The cache is the one that diffusers has: the hub's own client finds our copies in it, and nothing that it would call damaged."""
    hub.read("acme/sd")
    code = """
from huggingface_hub import hf_hub_download, scan_cache_dir
print(hf_hub_download("acme/sd", "unet/config.json", local_files_only=True))
cache = scan_cache_dir()
assert not cache.warnings
(repo,) = cache.repos
assert (repo.repo_id, repo.nb_files) == ("acme/sd", 2)
(revision,) = repo.revisions
cache.delete_revisions(revision.commit_hash).execute()
assert not scan_cache_dir().repos
"""
    done = subprocess.run([sys.executable, "-c", code], env=hub.environment(), capture_output=True, text=True, check=True)
    assert done.stdout.strip().endswith(f"snapshots/{COMMIT}/unet/config.json")
