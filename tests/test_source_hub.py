"""Reading configs from a hub: the real client against a server on this machine. Nothing is mocked."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.hub_server import COMMIT, TOKEN, HubServer, HubUser, Repository, as_json, pipeline
from unetinspect.errors import ConfigError, SourceError, UsageError
from unetinspect.record import Source
from unetinspect.source import LoadedModel

UNET = {"_class_name": "UNet2DConditionModel", "block_out_channels": [32, 64], "sample_size": 8}
VAE = {"_class_name": "AutoencoderKL", "block_out_channels": [8, 8, 8, 8]}
PIPELINE = pipeline(UNET, VAE)
SIZE = len(PIPELINE["unet/config.json"])
OTHER_COMMIT = "f" * 40
SD15 = "stable-diffusion-v1-5/stable-diffusion-v1-5"
CATALOG = "use a model from the catalog: `unetinspect models`"
COPIED = "read unet/config.json, vae/config.json of acme/sd from the cache, commit 0123456"


@pytest.fixture
def hub(tmp_path, monkeypatch, capfd):
    """Return a user of a hub with one pipeline, acme/sd; reading prints nothing."""
    with HubServer({"acme/sd": Repository(PIPELINE)}) as server:
        yield HubUser(server, tmp_path / "home", monkeypatch)
    assert capfd.readouterr() == ("", "")


def test_reads_the_unet_and_the_vae_at_one_commit(hub):
    """One HEAD and one GET bring each of the two files; read again, one HEAD asks whether the branch moved."""
    read = hub.read("acme/sd")
    assert read == LoadedModel(
        name="acme/sd",
        config=UNET,
        source=Source(kind="hub", location="acme/sd", revision=COMMIT, subfolder="unet"),
        vae_scale_factor=8,
        vae_scale_from="vae/config.json",
    )
    asked = [f"{method} unet/config.json" for method in ("HEAD main", f"GET {COMMIT}")]
    assert hub.server.seen() == asked + [f"{method} {COMMIT} vae/config.json" for method in ("HEAD", "GET")]
    assert hub.read("acme/sd") == read
    assert hub.server.seen() == ["HEAD main unet/config.json"]
    # A commit cannot change, so its copy needs no request.
    assert hub.read("acme/sd", revision=COMMIT) == read
    assert hub.server.seen() == []


def test_moved_branch_is_read_anew(hub):
    """A new commit on the branch is seen by the next read, whatever the cache has."""
    hub.read("acme/sd")
    changed = {**UNET, "sample_size": 16}
    hub.server.repositories["acme/sd"] = Repository(pipeline(changed, VAE), branches={"main": OTHER_COMMIT})
    found = hub.read("acme/sd")
    assert (found.config, found.source.revision) == (changed, OTHER_COMMIT)


def test_page_of_a_revision_on_the_endpoint(hub):
    """A pasted page of whatever HF_ENDPOINT is means the revision and the folder in it; --subfolder reads any class."""
    hub.server.repositories["acme/sd"].branches["dev"] = OTHER_COMMIT
    found = hub.read(f"{hub.server.address}/acme/sd/tree/dev/vae")
    assert (found.config, found.source.revision, found.source.subfolder) == (VAE, OTHER_COMMIT, "vae")
    assert hub.server.seen()[0] == "HEAD dev vae/config.json"
    assert hub.read("hf://acme/sd@dev", subfolder="vae") == found


def test_component_and_vae_under_other_names(hub):
    """The component in model_index.json is the UNet, and the VQ model in it says the factor; a bare UNet has no VAE."""
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
    assert found.config == {"_class_name": "UNet2DConditionModel", "block_out_channels": [1, 2]}
    assert (found.source.subfolder, found.vae_scale_factor, found.vae_scale_from) == ("decoder", 4, "movq/config.json")
    assert not any("vqvae" in line for line in hub.server.seen())
    hub.server.repositories["acme/ddpm"] = Repository({"config.json": as_json({"_class_name": "UNet2DModel"})})
    bare = hub.read("acme/ddpm")
    assert (bare.source.subfolder, bare.vae_scale_factor, bare.vae_scale_from) == (None, None, "")


def test_token_is_sent_and_never_kept(hub, monkeypatch):
    """--token and HF_TOKEN open a private repository, go out as a bearer header, and are in no file of the cache."""
    hub.server.repositories["acme/sd"].token = TOKEN
    assert hub.read("acme/sd", token=TOKEN).config == UNET
    assert {asked.authorization for asked in hub.server.requests} == {f"Bearer {TOKEN}"}
    assert hub.kept()
    assert not any(TOKEN.encode() in file.read_bytes() or TOKEN in str(file) for file in hub.kept())
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    assert hub.read("acme/sd", subfolder="vae").config == VAE


def test_copy_replaces_a_hub_that_fails(hub):
    """If the hub fails, a copy in the cache is read, with a note; the hub is not asked again for the VAE."""
    first = hub.read("acme/sd")
    hub.server.seen()
    for status, reason in [(500, "the hub returned error 500"), (451, "the hub has removed the repository for legal reasons")]:
        hub.server.repositories["acme/sd"].refusal = (status, {})
        found = hub.read("acme/sd")
        assert (found.config, found.source, found.vae_scale_factor) == (first.config, first.source, 8)
        assert found.notes == (f"{reason}: {COPIED}",)
        assert hub.server.seen() == ["HEAD main unet/config.json"]


def test_hub_that_fails_after_the_unet(hub):
    """If the hub fails at the VAE, the UNet is read, and the factor is unknown."""
    hub.read("acme/sd")
    next(file for file in hub.kept() if "vae" in file.parts).unlink()
    hub.server.repositories["acme/sd"].refusal = (500, {})
    found = hub.read("acme/sd", revision=COMMIT)
    assert (found.config, found.vae_scale_factor) == (UNET, None)
    assert found.notes == ("the hub returned error 500: the VAE's config of acme/sd was not read",)


@pytest.mark.parametrize("why", ["--offline", "HF_HUB_OFFLINE"])
def test_offline_opens_no_socket(hub, monkeypatch, why):
    """Offline the cache answers, what it lacks is an error, the catalog has its own, and the server sees nothing."""
    hub.read("acme/sd")
    hub.server.seen()
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", why == "HF_HUB_OFFLINE")
    options = {"offline": why == "--offline"}
    found = hub.read("acme/sd", **options)
    assert (found.config, found.vae_scale_factor, found.notes) == (UNET, 8, (f"offline ({why}): {COPIED}",))
    absent = (f"acme/other is not in the hub's cache on this machine, and {why} allows no download", f"go online once, or {CATALOG}")
    assert hub.refusal("acme/other", **options) == absent
    known = hub.read(SD15, **options)
    assert (known.name, known.vae_scale_from, known.config["cross_attention_dim"]) == ("sd15", "catalog", 768)
    assert known.source == Source(kind="catalog", location=SD15, subfolder="unet", confidence="verbatim")
    assert known.notes == (f"offline ({why}): for {SD15} the bundled config of sd15 was used",)
    # Not for a folder that is not its own.
    assert hub.refusal(SD15, subfolder="text_encoder", **options)[0].startswith(SD15)
    assert hub.server.seen() == []


def test_bundled_config_replaces_a_model_that_is_gone(hub):
    """A hub ID of the catalog that no longer answers is read from the catalog, with what became of it."""
    found = hub.read("runwayml/stable-diffusion-v1-5")
    assert found.config["_class_name"] == "UNet2DConditionModel"
    note = "the hub has no such repository, or it is private: for runwayml/stable-diffusion-v1-5 the bundled config of sd15 was used"
    assert found.notes[0].startswith(f"{note} (removed in 2024; ")


@pytest.mark.parametrize("mode", ["ok", "elsewhere"])
def test_renamed(hub, mode):
    """A repository under its old name is read where the hub redirects to, and a note says its new name, each time."""
    hub.server.mode = mode
    hub.server.renamed["acme/old"] = "acme/sd"
    found = hub.read("acme/old")
    assert (found.config, found.source.location, found.vae_scale_factor) == (UNET, "acme/old", 8)
    assert found.notes == ("acme/old is now called acme/sd",)
    assert hub.read("acme/old") == found
    # The copies in the cache are found under the old name.
    assert hub.read("acme/old", offline=True).config == UNET


def refusing(status, **headers):
    """Return a repository of which every request is refused."""
    return Repository({}, refusal=(status, {name.replace("_", "-"): value for name, value in headers.items()}))


LOGIN = "`hf auth login` or --token"
REMOVED = f"its page may say why: {{hub}}/acme/x; use a copy of it, or {CATALOG}"
DENIED = f"create a token that can read it at {{hub}}/settings/tokens, then {LOGIN}"
BAD = f"create one at {{hub}}/settings/tokens, then {LOGIN}; a public model needs none: `hf auth logout`"
WAIT = "wait {} and try again"
ABSENT, LIMIT = "the hub has no such repository, or it is private", "the hub's rate limit is reached (429)"
REFUSALS = {
    "absent": (None, {}, ABSENT, f"check the spelling; if it is private, {LOGIN}"),
    "absent, token": (None, {"token": TOKEN}, ABSENT, "check the spelling; if it is private, this token cannot read it"),
    "gated": (Repository(PIPELINE, is_gated=True), {}, "the repository is gated", f"accept its terms at {{hub}}/acme/x, then {LOGIN}"),
    "gated, token": (
        Repository(PIPELINE, is_gated=True),
        {"token": TOKEN},
        "the repository is gated",
        "accept its terms at {hub}/acme/x with the account of this token",
    ),
    "bad token": (refusing(401, X_Error_Message="Invalid credentials"), {"token": TOKEN}, "the hub rejected the token (401): ", BAD),
    "bad password": (
        refusing(401, X_Error_Message="Invalid username or password.", X_Error_Code="RepoNotFound"),
        {"token": TOKEN},
        "the hub rejected the token (401): it is invalid or expired",
        BAD,
    ),
    "revision": (
        Repository(PIPELINE),
        {"revision": "v9"},
        "the repository has no revision 'v9'",
        "its branches and tags: {hub}/acme/x/tree/main",
    ),
    "disabled": (refusing(403, X_Error_Message="Access to this resource is disabled."), {}, "the hub has disabled the repository", REMOVED),
    "removed": (refusing(410), {}, "the hub has removed the repository", REMOVED),
    "illegal": (refusing(451), {}, "the hub has removed the repository for legal reasons", REMOVED),
    "denied": (refusing(403), {}, "the hub denied access (403)", DENIED),
    "limit": (refusing(429), {}, LIMIT, f"{WAIT.format('a few minutes')}, or log in for a higher limit: `hf auth login`"),
    "limit in seconds": (refusing(429, Retry_After="120"), {"token": TOKEN}, LIMIT, WAIT.format("120 s")),
    "limit of the IETF": (refusing(429, RateLimit='"api";r=0;t=55'), {"token": TOKEN}, LIMIT, WAIT.format("55 s")),
    "limit to a date": (refusing(429, Retry_After="Wed, 21 Oct 2015 07:28:00 GMT"), {"token": TOKEN}, LIMIT, WAIT.format("a few minutes")),
    "failure": (refusing(500), {}, "the hub returned error 500", f"try again in a minute; or unset HF_ENDPOINT; or {CATALOG}"),
}


@pytest.mark.parametrize(("repository", "options", "why", "hint"), REFUSALS.values(), ids=REFUSALS)
def test_refusals(hub, repository, options, why, hint):
    """Each way in which the hub says no has its sentence and hint, after one request."""
    if repository is not None:
        hub.server.repositories["acme/x"] = repository
    message, said = hub.refusal("acme/x", **options)
    assert message.startswith(f"could not fetch acme/x: {why}")
    assert said == hint.format(hub=hub.server.address)
    assert hub.server.seen() == [f"HEAD {options.get('revision', 'main')} unet/config.json"]


def test_revision_that_is_gone_has_no_copy(hub):
    """A copy of a branch is not read if the branch no longer exists."""
    hub.server.repositories["acme/sd"].branches["dev"] = COMMIT
    assert hub.read("acme/sd", revision="dev").config == UNET
    del hub.server.repositories["acme/sd"].branches["dev"]
    assert hub.refusal("acme/sd", revision="dev")[0] == "could not fetch acme/sd: the repository has no revision 'dev'"


def test_illegal_token_and_misspelt_id(hub):
    """A token that cannot be in a header is refused before any request; a misspelt ID of the catalog is corrected."""
    illegal = "invalid --token: it is empty or contains an illegal character"
    assert hub.refusal("acme/sd", kind=UsageError, token=f"{TOKEN}\nX-Other: 1") == (illegal, "paste it whole: hf_...")
    assert hub.server.seen() == []
    assert hub.refusal("stable-diffusion-v1-5/stable-diffusion-v15")[1].startswith(f"did you mean {SD15}? check the spelling")


def test_a_transformer_is_not_taken_for_a_unet(hub):
    """By its index where that is read; by its name where it is gated or not on this machine. What has a UNet is read, whatever its name."""
    flux, sd3 = "black-forest-labs/FLUX.1-dev", "stabilityai/stable-diffusion-3-medium-diffusers"
    index = as_json(
        {"_class_name": "FluxPipeline", "transformer": ["diffusers", "FluxTransformer2DModel"], "vae": ["diffusers", "AutoencoderKL"]}
    )
    hub.server.repositories |= {flux: Repository({"model_index.json": index}), sd3: Repository({}, is_gated=True)}
    hub.server.repositories |= {"acme/flux-look-sd15": Repository(PIPELINE)}
    assert hub.refusal(flux)[0] == f"no UNet here: {flux} is a pipeline whose `transformer` is FluxTransformer2DModel"
    for model, options in ((flux, {"offline": True, "revision": "dev"}), (sd3, {}), ("sd3", {})):
        assert hub.refusal(model, **options)[1].startswith(f"{model} is probably a diffusion transformer, not a UNet; ")
    assert hub.read("acme/flux-look-sd15").config == UNET


def test_no_unet(hub):
    """A repository without a UNet says what there is instead, and which checkpoint can be read, for one more request."""
    names = ["README.md", "merge-v2.safetensors", "merge-v1.safetensors", "loras/x.safetensors", "old.ckpt"]
    hub.server.repositories["acme/merges"] = Repository(dict.fromkeys(names, b""))
    assert hub.refusal("acme/merges", revision="main") == (
        "no UNet here: acme/merges has no unet/config.json, config.json or model_index.json",
        "to read the header of a checkpoint: hf://acme/merges@main/merge-v1.safetensors (and 1 more)",
    )
    assert [asked.path for asked in hub.server.requests if "/api/" in asked.path] == ["/api/models/acme/merges/revision/main"]


def test_misses_that_no_hub_reports(hub):
    """A proxy's 404 for everything does not mean that there is no UNet; a mirror that is as brief, and has one, is read."""
    hub.server.mode = "bare 404"
    hub.server.repositories |= {"acme/other": Repository({}), "acme/bare": Repository({"config.json": as_json(UNET)})}
    assert hub.refusal("acme/other") == (
        f"could not fetch acme/other: {hub.server.address} is not a model hub",
        f"check the connection and HF_ENDPOINT, or {CATALOG}",
    )
    assert hub.read("acme/bare").config == UNET
    hub.server.mode = "page"
    assert hub.refusal("acme/sd")[0] == f"could not fetch acme/sd: {hub.server.address} is not a model hub"


def test_damaged_and_huge_configs(hub):
    """A damaged config is an error and not kept, one of the VAE a note; what is too big is refused by its size alone."""
    files = hub.server.repositories["acme/sd"].files = {**PIPELINE, "vae/config.json": b"[1]"}
    found = hub.read("acme/sd")
    assert (found.config, found.vae_scale_factor) == (UNET, None)
    said = "vae/config.json of acme/sd contains a list; a config is a mapping of keys to values"
    assert found.notes == (f"VAE scale factor unknown: {said}",)
    assert hub.refusal("acme/sd", kind=ConfigError, subfolder="vae")[0] == said
    assert not any("vae" in file.parts for file in hub.kept())
    hub.server.seen()
    files["big/config.json"] = b" " * (8 * 1024**2 + 1)
    assert hub.refusal("acme/sd", subfolder="big")[0] == "big/config.json of acme/sd is bigger than 8 MB, too big for a config"
    assert not any(line.startswith("GET") for line in hub.server.seen())


@pytest.mark.parametrize("headers", [{"ETag": '"../../../outside"'}, {"X-Repo-Commit": "../../outside"}, {"ETag": '""'}], ids=str)
def test_names_that_lead_out_of_the_cache(hub, tmp_path, headers):
    """What a server calls a commit becomes a folder of the cache, so one that leads out of it is refused; an ETag does not."""
    hub.server.repositories["acme/sd"].refusal = (200, {"ETag": '"abc"', "X-Repo-Commit": COMMIT} | headers)
    said = " is not a model hub" if "X-Repo-Commit" in headers else "unet/config.json of acme/sd is empty"
    assert hub.refusal("acme/sd", kind=SourceError if "X-Repo-Commit" in headers else ConfigError)[0].endswith(said)
    assert not list(tmp_path.rglob("*outside*"))


def test_cache_that_cannot_be_written(hub):
    """If the cache is not a folder, the model is read, and a note says what is wrong."""
    hub.home.write_text("a file in the way")
    found = hub.read("acme/sd")
    assert (found.config, found.vae_scale_factor) == (UNET, 8)
    assert found.notes == ("could not write the hub's cache (not a directory): acme/sd is not kept; set HF_HOME to another folder",)


def test_file_that_does_not_come(hub):
    """A file that ends too early, or fails after its metadata, is an error and not kept; a copy of the old commit replaces it."""
    for mode, why, hint in [
        ("500 on get", "the hub returned error 500", f"try again in a minute; or unset HF_ENDPOINT; or {CATALOG}"),
        ("cut in body", f"the download stopped after {SIZE // 2} of {SIZE} bytes (connection closed)", f"try again, or {CATALOG}"),
    ]:
        hub.server.mode = mode
        assert hub.refusal("acme/sd") == (f"could not fetch acme/sd: {why}", hint)
        assert [line.split()[0] for line in hub.server.seen()] == ["HEAD", "GET"]
        assert hub.kept() == []
    hub.server.mode = "ok"
    old = hub.read("acme/sd")
    hub.server.repositories["acme/sd"] = Repository(pipeline({**UNET, "sample_size": 16}), branches={"main": OTHER_COMMIT})
    hub.server.mode = "cut in body"
    found = hub.read("acme/sd")
    assert (found.config, found.source) == (UNET, old.source)
    assert found.notes[0].startswith("the download stopped after ")


def test_processes_read_and_write_one_cache(hub, monkeypatch):
    """Two processes with one HF_HOME leave whole files in it, import nothing heavy, and the client itself finds them."""
    count = 10
    hub.server.repositories["acme/sd"].branches |= {f"b{number}": f"{number:040x}" for number in range(count)}
    code = f"""
import sys
from unetinspect.source import read_model
for number in range({count}):
    assert read_model("acme/sd", revision=f"b{{number}}").source.revision == f"{{number:040x}}"
assert not {{"torch", "diffusers"}} & set(sys.modules)
"""
    runs = [subprocess.Popen([sys.executable, "-c", code], env=hub.environment(), stderr=subprocess.PIPE, text=True) for _ in range(2)]
    assert [(run.communicate(timeout=60)[1], run.returncode) for run in runs] == [("", 0)] * 2
    files = hub.kept()
    assert len(files) == count * (2 + 1)
    assert {file.read_bytes() for file in files if file.suffix == ".json"} == {as_json(UNET), as_json(VAE)}
    assert {file.stat().st_mode & 0o044 for file in files} == {hub.home.stat().st_mode & 0o044}
    from huggingface_hub import hf_hub_download, scan_cache_dir

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_TELEMETRY", True)
    found = hf_hub_download("acme/sd", "unet/config.json", revision="b1", cache_dir=hub.home / "hub", local_files_only=True)
    assert found.endswith(f"snapshots/{1:040x}/unet/config.json")
    cache = scan_cache_dir(hub.home / "hub")
    (repo,) = cache.repos
    assert (cache.warnings, repo.repo_id, repo.nb_files) == ([], "acme/sd", 2 * count)
    cache.delete_revisions(*(revision.commit_hash for revision in repo.revisions)).execute()
    assert not scan_cache_dir(hub.home / "hub").repos
