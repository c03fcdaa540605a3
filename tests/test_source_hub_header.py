"""Headers of weights on the hub: a real client and real range requests, against servers on this machine."""

from __future__ import annotations

import struct

import pytest

from tests.hub_server import COMMIT, TOKEN, HubServer, Repository, as_json, safetensors
from tests.hub_user import HubUser

UNET = {"_class_name": "UNet2DConditionModel", "sample_size": 8}
WEIGHTS = "unet/diffusion_pytorch_model.safetensors"
TENSORS = {"conv_in.weight": ("F16", [32, 4, 3, 3]), "conv_in.bias": ("BF16", [32])}
READ = {name: [shape, dtype] for name, (dtype, shape) in TENSORS.items()}
# A header longer than the hub's client asks for at first, of 2 kB a name.
LONG = {f"{number:02d}{'x' * 2000}": ("F16", [number]) for number in range(100)}
GIGABYTES_7 = 7 * 1024**3


def repository(tensors=TENSORS, path=WEIGHTS, **options):
    """Return a repository with one file of weights, of which only the header is really there."""
    start, size = safetensors(tensors)
    return Repository({path: start, "unet/config.json": as_json(UNET)}, sizes={path: size}, **options)


@pytest.fixture
def hub(tmp_path):
    """Return a hub with the weights of one UNet, acme/sd."""
    with HubServer({"acme/sd": repository()}) as server:
        yield HubUser(server, tmp_path / "home")


def test_reads_the_header_alone(hub):
    """One question for the commit and one for the first 100 kB bring every tensor, and the config beside it."""
    found = hub.header(f"hf://acme/sd/{WEIGHTS}")
    assert found == {
        "name": f"acme/sd/{WEIGHTS}",
        "tensors": READ,
        "bytes": 2 * (32 * 4 * 9 + 32),
        "files": 1,
        "file": WEIGHTS,
        "commit": COMMIT,
        "config": UNET,
        "notes": [],
    }
    asked = [(asked.method, asked.path.partition("/resolve/")[2], asked.range) for asked in hub.server.requests if WEIGHTS in asked.path]
    assert asked == [("HEAD", f"main/{WEIGHTS}", None), ("GET", f"{COMMIT}/{WEIGHTS}", "bytes=0-99999")]


@pytest.mark.parametrize("mode", ["ok", "whole"])
def test_seven_gigabytes_cost_the_header(hub, mode):
    """Of a file of 7 GB whose header is longer than the first request no weight is fetched, even from a server that sends it whole."""
    start, _ = safetensors({**LONG, "weight": ("F16", [GIGABYTES_7 // 2])})
    _, size = safetensors({**LONG, "weight": ("F16", [GIGABYTES_7 // 2])})
    assert size > GIGABYTES_7
    assert len(start) > 200_000
    hub.server.repositories["acme/big"] = Repository({"big.safetensors": start}, sizes={"big.safetensors": size})
    hub.server.mode = mode
    found = hub.header("hf://acme/big/big.safetensors")
    assert (len(found["tensors"]), found["bytes"]) == (101, GIGABYTES_7 + 2 * sum(range(100)))
    ranges = [asked.range for asked in hub.server.requests if asked.method == "GET"]
    assert ranges == ["bytes=0-99999", f"bytes=100000-{len(start) - 1}"]
    if mode == "ok":
        assert hub.server.sent == len(start)
    # Else what two sockets hold of it before they are closed.
    assert hub.server.sent < 20_000_000


def test_another_host_has_the_file_and_never_the_token(hub):
    """A redirect to the host that has the file is followed, with the range and without the token."""
    with HubServer({"acme/sd": repository()}) as cdn:
        hub.server.cdn = cdn
        hub.server.repositories["acme/sd"].token = TOKEN
        found = hub.header(f"hf://acme/sd/{WEIGHTS}", token=TOKEN)
        assert (found["tensors"], found["commit"]) == (READ, COMMIT)
        assert [(asked.method, asked.range, asked.authorization) for asked in cdn.requests] == [("GET", "bytes=0-99999", None)]
    assert {asked.authorization for asked in hub.server.requests} == {f"Bearer {TOKEN}"}


def test_renamed(hub):
    """The new name of a repository is told also where the file is on another host."""
    with HubServer({"acme/sd": repository()}) as cdn:
        hub.server.cdn = cdn
        hub.server.renamed["acme/old"] = "acme/sd"
        del hub.server.repositories["acme/sd"].files["unet/config.json"]
        found = hub.header(f"hf://acme/old/{WEIGHTS}")
    assert (found["tensors"], found["notes"]) == (READ, ["acme/old is now called acme/sd"])


def test_copy_in_the_cache_is_read(hub):
    """Weights that the hub's client has fetched before are read there, offline or on."""
    start, size = safetensors(TENSORS)
    snapshot = hub.home / "hub" / "models--acme--sd" / "snapshots" / COMMIT
    (snapshot / "unet").mkdir(parents=True)
    (snapshot / WEIGHTS).write_bytes(start + bytes(size - len(start)))
    refs = snapshot.parent.parent / "refs"
    refs.mkdir()
    (refs / "main").write_text(COMMIT)
    found = hub.header(f"hf://acme/sd/{WEIGHTS}")
    assert (found["tensors"], found["notes"]) == (READ, [])
    assert "GET" not in {asked.method for asked in hub.server.requests if WEIGHTS in asked.path}
    hub.server.seen()
    found = hub.header(f"hf://acme/sd/{WEIGHTS}", is_offline=True)
    assert found["tensors"] == READ
    assert found["notes"][0].startswith(f"offline (--offline): read {WEIGHTS}, unet/config.json of acme/sd from the cache")
    assert hub.header("hf://acme/sd", is_offline=True) == found
    assert hub.server.seen() == []


def test_offline_without_a_copy(hub):
    """Offline, weights that are not in the cache are an error that names them, and nothing is asked."""
    error = f"{WEIGHTS} of acme/sd is not in the hub's cache on this machine, and --offline allows no download"
    assert hub.header(f"hf://acme/sd/{WEIGHTS}", is_offline=True)["error"] == error
    assert hub.header("hf://acme/sd", is_offline=True)["error"] == error
    assert hub.server.seen() == []


def test_file_that_is_not_there(hub):
    """A name that the repository does not have is told as that; so is a repository that the hub does not have."""
    assert hub.header("hf://acme/sd/other.safetensors") == {
        "error": "acme/sd has no file 'other.safetensors'",
        "hint": "its files are listed on its page, under Files and versions",
        "exit_code": 3,
    }
    assert hub.header("hf://acme/nothing/other.safetensors")["error"].startswith("the hub has no repository acme/nothing, or it is private")


@pytest.mark.parametrize(
    ("files", "found"),
    [
        ([WEIGHTS, "model.safetensors"], WEIGHTS),
        (["unet/diffusion_pytorch_model.fp16.safetensors"], "unet/diffusion_pytorch_model.fp16.safetensors"),
        (
            ["unet/diffusion_pytorch_model.safetensors.index.json", "unet/a.safetensors"],
            "unet/diffusion_pytorch_model.safetensors.index.json",
        ),
        (["diffusion_pytorch_model.safetensors"], "diffusion_pytorch_model.safetensors"),
        (["model.safetensors"], "model.safetensors"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_finds_the_weights(hub, files, found):
    """Where no file is named, the UNet's weights are those under diffusers' own names, in the pipeline or at the root."""
    start, size = safetensors(TENSORS)
    index = as_json({"weight_map": dict.fromkeys(TENSORS, "a.safetensors")})
    bodies = {file: index if file.endswith(".json") else start for file in files}
    hub.server.repositories["acme/sd"] = Repository(bodies, sizes={file: size for file in files if file.endswith(".safetensors")})
    read = hub.header("hf://acme/sd")
    assert (read["file"], read["tensors"]) == (found, READ)


def test_finds_no_weights(hub):
    """A repository without them says so; one that has only a pickle says why that is not opened."""
    hub.server.repositories["acme/none"] = Repository({"README.md": b""})
    assert hub.header("hf://acme/none") == {
        "error": "acme/none has no weights under the names that diffusers gives a UNet's",
        "hint": "name the file: hf://acme/none/FILE.safetensors",
        "exit_code": 3,
    }
    hub.server.repositories["acme/old"] = Repository({"prior/diffusion_pytorch_model.bin": b""})
    assert hub.header("hf://acme/old/prior")["error"] == (
        "acme/old/prior has no weights but prior/diffusion_pytorch_model.bin, which is a pickle; "
        "pickles can execute code, so they are never opened"
    )


INDEX = "unet/diffusion_pytorch_model.safetensors.index.json"


def shards(*names, **mapping):
    """Return a repository whose index lists these files, each with a tensor of its own."""
    files, sizes = {INDEX: as_json({"weight_map": {f"t{number}": name for number, name in enumerate(names)} | mapping})}, {}
    for number, name in enumerate(names):
        files[f"unet/{name}"], sizes[f"unet/{name}"] = safetensors({f"t{number}": ("F16", [number + 1])})
    return Repository(files, sizes=sizes)


def test_reads_all_files_of_an_index(hub):
    """An index brings the tensors of its files as one, each read by its header."""
    hub.server.repositories["acme/parts"] = shards("a-00001-of-00002.safetensors", "a-00002-of-00002.safetensors")
    found = hub.header(f"hf://acme/parts/{INDEX}")
    assert (found["tensors"], found["files"], found["bytes"]) == ({"t0": [[1], "F16"], "t1": [[2], "F16"]}, 2, 6)
    assert found["name"] == f"acme/parts/{INDEX}"


@pytest.mark.parametrize(
    "name", ["../../secret.safetensors", "/etc/x.safetensors", "https://evil.example/x.safetensors", "..\\x.safetensors"]
)
def test_index_that_leads_elsewhere(hub, name):
    """An index is followed in its own folder and nowhere else: no request is made for what it names outside."""
    hub.server.repositories["acme/evil"] = shards(t9=name)
    found = hub.header(f"hf://acme/evil/{INDEX}")
    assert found["error"].startswith(f"acme/evil/{INDEX}: its index points out of its own folder, to ")
    assert {line.split()[2] for line in hub.server.seen()} == {INDEX}


def damaged():
    """Give files that are no safetensors, with what is said of each."""
    start, size = safetensors(TENSORS)
    return {
        "cut off": (start + bytes(size - len(start) - 1), "is cut off: its tensors end at byte "),
        "no header": (start[:20], "is cut off: its header has "),
        "a lie": (struct.pack("<Q", 1 << 62) + b"{}", "is no safetensors file: it says that its header has 4611686018427387904 bytes"),
        "empty": (b"", "has 0 bytes, and is no safetensors file"),
        "a page": (b"<!DOCTYPE html>" + bytes(99), "is no safetensors file: "),
    }


@pytest.mark.parametrize("kind", damaged())
def test_damaged(hub, kind):
    """A file whose length or header cannot be is told in a sentence, by its header and its size alone."""
    body, said = damaged()[kind]
    hub.server.repositories["acme/bad"] = Repository({"x.safetensors": body})
    found = hub.header("hf://acme/bad/x.safetensors")
    assert found["error"].startswith(f"acme/bad/x.safetensors {said}")
    assert found["exit_code"] == 3


def test_cut_off_while_it_comes(hub):
    """A header that does not come whole is told with what came of it."""
    hub.server.repositories["acme/sd"] = repository(LONG)
    hub.server.mode = "cut in body"
    found = hub.header(f"hf://acme/sd/{WEIGHTS}")
    assert found["error"] == "could not fetch acme/sd: the download stopped after 50000 of 100000 bytes (connection closed)"


def test_config_beside_that_is_damaged(hub):
    """A config that cannot be read does not keep the header from being read."""
    hub.server.repositories["acme/sd"].files["unet/config.json"] = b"[]"
    found = hub.header(f"hf://acme/sd/{WEIGHTS}")
    assert (found["tensors"], found["config"]) == (READ, None)
    assert found["notes"][0].startswith("could not read the config beside the weights: unet/config.json of acme/sd contains a list")
