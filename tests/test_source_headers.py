"""Headers of safetensors files, in a folder and on a hub: what is read of them, and what only claims to be one."""

from __future__ import annotations

import contextlib
import json
import os
import struct
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from tests.hub_server import COMMIT, TOKEN, HubServer, HubUser, Repository, as_json, safetensors
from unetinspect.errors import SourceError, UnetInspectError
from unetinspect.source.local import weights_at
from unetinspect.source.pipeline import find_weights, shard_names
from unetinspect.source.place import Folder

TENSORS = {"conv_in.weight": ("F16", [32, 4, 3, 3]), "conv_in.bias": ("BF16", [32])}
BYTES = 2 * (32 * 4 * 9 + 32)
UNET = {"_class_name": "UNet2DConditionModel", "sample_size": 8}
WEIGHTS = "unet/diffusion_pytorch_model.safetensors"
INDEX = "model.safetensors.index.json"
GIGABYTES_7 = 7 * 1024**3


def write(path, tensors=TENSORS, **options):
    """Write a file of which the header is really there, and the weights are a hole."""
    start, size = safetensors(tensors, **options)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(start)
    os.truncate(path, size)
    return path


def repository(tensors=TENSORS, path=WEIGHTS, **options):
    """Return a repository with one file of weights, of which only the header is really there."""
    start, size = safetensors(tensors)
    return Repository({path: start, "unet/config.json": as_json(UNET)}, sizes={path: size}, **options)


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """Return a user of a hub with the weights of one UNet, acme/sd."""
    with HubServer({"acme/sd": repository()}) as server:
        yield HubUser(server, tmp_path / "home", monkeypatch)


def tensors_of(header):
    """Return the tensors of a header as `safetensors` takes them."""
    return {name: (spec.dtype, list(spec.shape)) for name, spec in header.tensors.items()}


def refused(path):
    """Return what is said of a file that cannot be read as weights."""
    with pytest.raises(SourceError) as caught:
        weights_at(path)
    assert caught.value.hint
    return caught.value.message


def test_reads_names_shapes_and_dtypes(tmp_path):
    """The header of a file of 7 GB is read without the rest."""
    weights = {**TENSORS, "weight": ("F16", [GIGABYTES_7 // 2])}
    path = write(tmp_path / "x.safetensors", weights, metadata={"format": "pt"})
    header = weights_at(path).header
    assert tensors_of(header) == weights
    assert (header.name, header.metadata, header.files, header.bytes) == (str(path), {"format": "pt"}, 1, BYTES + GIGABYTES_7)


def test_the_same_as_the_format_s_own_library(tmp_path):
    """A file that safetensors itself wrote is read as safetensors reads it."""
    numpy, library = pytest.importorskip("numpy"), pytest.importorskip("safetensors.numpy")
    arrays = {"a": numpy.zeros((2, 3), numpy.float16), "b": numpy.zeros((), numpy.int64), "c": numpy.zeros((0, 4), numpy.float32)}
    library.save_file(arrays, tmp_path / "x.safetensors", metadata={"k": "v"})
    header = weights_at(tmp_path / "x.safetensors").header
    assert tensors_of(header) == {"a": ("F16", [2, 3]), "b": ("I64", []), "c": ("F32", [0, 4])}
    assert (header.bytes, header.metadata) == (sum(array.nbytes for array in arrays.values()), {"k": "v"})


@pytest.mark.parametrize(("mode", "length"), [("ok", 1), ("ok", 2000), ("whole", 2000)])
def test_the_hub_sends_the_header_alone(hub, mode, length):
    """Of 7 GB the first 100 kB are fetched, and what a longer header needs, even from a server that sends the whole file."""
    tensors = {f"{number:02d}{'x' * length}": ("F16", [number]) for number in range(100)} | {"weight": ("F16", [GIGABYTES_7 // 2])}
    start, size = safetensors(tensors)
    hub.server.repositories["acme/big"] = Repository({"big.safetensors": start}, sizes={"big.safetensors": size})
    hub.server.mode = mode
    read = hub.header("hf://acme/big/big.safetensors")
    assert (tensors_of(read.header), read.header.bytes) == (tensors, GIGABYTES_7 + 2 * sum(range(100)))
    assert (read.source.kind, read.source.location, read.source.revision) == ("hub", "acme/big/big.safetensors", COMMIT)
    asked = [(asked.method, asked.path.partition("/resolve/")[2].partition("/")[0], asked.range) for asked in hub.server.requests]
    rest = [("GET", COMMIT, f"bytes=100000-{len(start) - 1}")] if length > 1 else []
    assert asked == [("HEAD", "main", None), ("GET", COMMIT, "bytes=0-99999"), *rest]
    # From such a server, what two sockets buffer before they are closed.
    assert hub.server.sent == max(len(start), 100_000) if mode == "ok" else hub.server.sent < 20_000_000


def test_another_host_has_the_file_and_never_the_token(hub):
    """A redirect to the host that has the file is followed with the range and without the token; a new name is a note."""
    with HubServer({"acme/sd": repository()}) as cdn:
        hub.server.cdn = cdn
        hub.server.repositories["acme/sd"].token = TOKEN
        hub.server.renamed["acme/old"] = "acme/sd"
        read = hub.header(f"hf://acme/old/{WEIGHTS}", token=TOKEN)
        assert (tensors_of(read.header), read.source.revision) == (TENSORS, COMMIT)
        assert read.notes == ("acme/old is now called acme/sd",)
        assert [(asked.method, asked.range, asked.authorization) for asked in cdn.requests] == [("GET", "bytes=0-99999", None)]
    assert {asked.authorization for asked in hub.server.requests} == {f"Bearer {TOKEN}"}


def test_copy_in_the_cache_is_read(hub):
    """Weights that the hub's client fetched before are read in the cache, offline or not."""
    snapshot = hub.home / "hub" / "models--acme--sd" / "snapshots" / COMMIT
    write(snapshot / WEIGHTS)
    (snapshot.parent.parent / "refs").mkdir()
    (snapshot.parent.parent / "refs" / "main").write_text(COMMIT)
    read = hub.header(f"hf://acme/sd/{WEIGHTS}")
    assert (tensors_of(read.header), read.notes) == (TENSORS, ())
    assert hub.server.seen() == [f"HEAD main {WEIGHTS}"]
    offline = hub.header("hf://acme/sd", offline=True)
    assert tensors_of(offline.header) == TENSORS
    assert offline.notes == (f"offline (--offline): read {WEIGHTS} of acme/sd from the cache, commit 0123456",)
    assert hub.server.seen() == []


def test_no_weights_on_the_hub(hub):
    """Weights that are not in the cache or the repository are an error that names them; a pickle is never read."""
    absent = f"{WEIGHTS} of acme/sd is not in the hub's cache on this machine, and --offline allows no download"
    assert hub.refusal(f"hf://acme/sd/{WEIGHTS}", header=True, offline=True)[0] == absent
    assert hub.refusal("hf://acme/sd", header=True, offline=True)[0] == absent
    assert hub.server.seen() == []
    missing = ("acme/sd has no file 'other.safetensors'", "its files are listed on its page, under Files and versions")
    assert hub.refusal("hf://acme/sd/other.safetensors", header=True) == missing
    assert "the hub has no such repository" in hub.refusal("hf://acme/nothing/other.safetensors", header=True)[0]
    hub.server.repositories["acme/none"] = Repository({"README.md": b"", "prior/diffusion_pytorch_model.bin": b""})
    nothing = "acme/none has no weights under diffusers' names for a UNet"
    assert hub.refusal("hf://acme/none", header=True) == (nothing, "name the file: hf://acme/none/FILE.safetensors")
    pickle = "acme/none/prior has no weights but prior/diffusion_pytorch_model.bin, which is a pickle; "
    assert hub.refusal("hf://acme/none/prior", header=True)[0].startswith(pickle)


def test_damaged_on_the_hub(hub):
    """A file whose length or header is wrong is refused by its size and its first bytes alone, one that ends early by what came."""
    start, size = safetensors(TENSORS)
    for body, said in [
        (start + bytes(size - len(start) - 1), "is cut off: its tensors end at byte "),
        (start[:20], "is cut off: its header has "),
        (struct.pack("<Q", 1 << 62) + b"{}", "is not a safetensors file: its header would have 4611686018427387904 bytes"),
        (b"", "is not a safetensors file: it has 0 bytes"),
        (b"<!DOCTYPE html>" + bytes(99), "is not a safetensors file"),
    ]:
        hub.server.repositories["acme/bad"] = Repository({"x.safetensors": body})
        assert hub.refusal("hf://acme/bad/x.safetensors", header=True)[0].startswith(f"acme/bad/x.safetensors {said}")
    page = "the file is a web page (an error or login page)"
    for body in (b"<!DOCTYPE html><body>404 Not found</body>", b"\n<html>Sign in</html>"):
        hub.server.repositories["acme/bad"] = Repository({"x.safetensors": body})
        assert hub.refusal("hf://acme/bad/x.safetensors", header=True) == ("acme/bad/x.safetensors is not a safetensors file", page)
    hub.server.repositories["acme/evil"] = Repository({INDEX: as_json({"weight_map": {"a": "../../secret.safetensors"}})})
    hub.server.seen()
    assert "lists '../../secret.safetensors', which is not in its own folder" in hub.refusal(f"hf://acme/evil/{INDEX}", header=True)[0]
    assert {line.split()[2] for line in hub.server.seen()} == {INDEX}
    hub.server.repositories["acme/sd"] = repository({"x" * 200_000: ("F16", [1])})
    hub.server.mode = "cut in body"
    said = "could not fetch acme/sd: the download stopped after 50000 of 100000 bytes (connection closed)"
    assert hub.refusal(f"hf://acme/sd/{WEIGHTS}", header=True)[0] == said


def test_headers_have_a_deadline(hub, monkeypatch):
    """The headers of a repository are given up after a number of seconds, however many files it has."""
    monkeypatch.setattr("unetinspect.source.hub._HEADERS_SECONDS", -1)
    late = ("reading the headers of acme/sd took longer than -1 s", "give one .safetensors file")
    assert hub.refusal(f"hf://acme/sd/{WEIGHTS}", header=True) == late


def test_index_and_config_on_the_hub(hub, monkeypatch):
    """An index brings its files as one; the config beside a checkpoint in diffusers' layout is its own, and a damaged one is a note."""
    files, sizes = {f"unet/{INDEX}": as_json({"weight_map": {"a": "1.safetensors", "b": "2.safetensors"}})}, {}
    for name, shard in (("a", "unet/1.safetensors"), ("b", "unet/2.safetensors")):
        files[shard], sizes[shard] = safetensors({name: ("F16", [3])})
    hub.server.repositories["acme/parts"] = Repository({**files, "unet/config.json": as_json(UNET)}, sizes=sizes)
    known = replace(hub.header(f"hf://acme/parts/unet/{INDEX}").checkpoint, layout="diffusers", config={"inferred": True})
    monkeypatch.setattr("unetinspect.checkpoint.identify.identify", lambda header: known)
    model = hub.read(f"hf://acme/parts/unet/{INDEX}")
    assert (tensors_of(model.weights.header), model.weights.header.files) == ({"a": ("F16", [3]), "b": ("F16", [3])}, 2)
    assert (model.name, model.source.location, model.config, model.notes) == (INDEX, f"acme/parts/unet/{INDEX}", UNET, ())
    hub.server.repositories["acme/bad"] = Repository({**files, "unet/config.json": b"[]"}, sizes=sizes)
    model = hub.read(f"hf://acme/bad/unet/{INDEX}")
    assert model.config == {"inferred": True}
    said = "could not read the config beside the weights: unet/config.json of acme/bad contains a list"
    assert (model.notes[0].partition(";")[0], model.notes[1]) == (said, "config inferred from tensor names and shapes")


def test_reads_all_files_of_an_index(tmp_path):
    """An index brings the tensors of its files as one; a link beside it is followed, as the hub's cache has them."""
    write(tmp_path / "blobs" / "abc", {"a": ("F16", [1])})
    (tmp_path / "part-1.safetensors").symlink_to(tmp_path / "blobs" / "abc")
    write(tmp_path / "part-2.safetensors", {"b": ("F16", [2])})
    (tmp_path / INDEX).write_bytes(as_json({"weight_map": {"a": "part-1.safetensors", "b": "part-2.safetensors"}}))
    header = weights_at(tmp_path / INDEX).header
    assert (list(header.tensors), header.files, header.bytes, header.name) == (["a", "b"], 2, 6, str(tmp_path / INDEX))


OUTSIDE = ["../x.safetensors", "/etc/x.safetensors", "..", "C:x.safetensors", "\\\\host\\x.safetensors", "https://a/x.safetensors"]
BAD_INDEXES = [
    ({}, "is not a weights index: it has no weight_map"),
    ({"weight_map": [1]}, "is not a weights index: it has no weight_map"),
    ({"weight_map": {"a": None}}, "lists 'None', which is not a .safetensors file"),
    ({"weight_map": {"a": "x.bin"}}, "is a pickle; pickles can execute code"),
    ({"weight_map": {str(n): f"{n}.safetensors" for n in range(201)}}, "lists 201 files, more than 200"),
    ({"weight_map": {"a": "gone.safetensors"}}, "there is no file gone.safetensors of "),
    ({"weight_map": {"a": "x.safetensors", "b": "y.safetensors"}}, "two of its files contain the tensor 'conv_in.weight'"),
    *(({"weight_map": {"a": name}}, f"lists {name!r}, which is not in its own folder") for name in OUTSIDE),
]


@pytest.mark.parametrize(("index", "said"), BAD_INDEXES, ids=lambda value: value[:30] if isinstance(value, str) else "")
def test_index_that_cannot_be_followed(tmp_path, index, said):
    """An index lists safetensors files in its own folder, not too many, and all of them are there."""
    for path in ("../x", "x", "y"):
        write(tmp_path / "in" / f"{path}.safetensors")
    (tmp_path / "in" / INDEX).write_bytes(as_json(index))
    assert said in refused(tmp_path / "in" / INDEX)


def test_what_is_not_a_regular_file(tmp_path):
    """A folder, a pipe and a device of that name are refused at once: reading a pipe would wait for a writer forever."""
    (tmp_path / "a.safetensors").mkdir()
    os.mkfifo(tmp_path / "b.safetensors")
    (tmp_path / "c.safetensors").symlink_to("/dev/zero")
    os.mkfifo(tmp_path / "d.ckpt")
    said = [refused(tmp_path / f"{name}.safetensors").rpartition(" is ")[2] for name in "abc"]
    assert said == ["a folder, not a weights file", "a pipe, not a weights file", "a device, not a weights file"]
    # A pickle is refused by its name.
    assert refused(tmp_path / "d.ckpt") == f"{tmp_path / 'd.ckpt'} is a pickle; pickles can execute code, so they are never opened"


def test_what_cannot_be_opened(tmp_path):
    """A file that does not exist, a link to itself and a name that no file can have are a sentence each."""
    assert refused(tmp_path / "x.safetensors") == f"there is no file {tmp_path / 'x.safetensors'}"
    (tmp_path / "y.safetensors").symlink_to("y.safetensors")
    assert refused(tmp_path / "y.safetensors").endswith(" cannot be read: too many levels of symbolic links")
    assert refused(Path("x\0.safetensors")).endswith(" cannot be read: invalid file name")
    write(tmp_path / "z.safetensors").chmod(0)
    if hasattr(os, "geteuid") and os.geteuid() != 0:  # root may read every file
        assert refused(tmp_path / "z.safetensors").endswith(" cannot be read: permission denied")


def entry(begin, end, *, dtype="F16", shape=(1,)):
    """Return what a header says of one tensor."""
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, end]}


HOSTILE = {
    "overlapping": as_json({"a": entry(0, 2), "b": entry(1, 3)}),
    "a gap": as_json({"a": entry(0, 2), "b": entry(4, 6)}),
    "backwards": as_json({"a": entry(2, 0)}),
    "too small for its shape": as_json({"a": entry(0, 2, shape=(1000, 1000))}),
    "a negative side": as_json({"a": entry(0, 2, shape=(-1, -1))}),
    "a huge side": as_json({"a": entry(0, 0, shape=(0, 10**18))}),
    "NaN": b'{"a": {"dtype": "F16", "shape": [NaN], "data_offsets": [0, 2]}}',
    "a fraction": b'{"a": {"dtype": "F16", "shape": [1.5], "data_offsets": [0, 2]}}',
    "an endless number": b'{"a": {"dtype": "F16", "shape": [' + b"9" * 5000 + b'], "data_offsets": [0, 2]}}',
    "the same name twice": b'{"a": ' + as_json(entry(0, 2)) + b', "a": ' + as_json(entry(2, 4)) + b"}",
    "not UTF-8": b'{"\xff\xfe": ' + as_json(entry(0, 2)) + b"}",
    "deep": b'{"a": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "a list": b"[1, 2]",
    "another key": b'{"a": {"dtype": "F16", "shape": [1], "data_offsets": [0, 2], "run": "rm"}}',
    "wrong metadata": as_json({"__metadata__": {"a": [1]}}),
    "nothing": b"  ",
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_headers(tmp_path, kind):
    """A header that cannot be true is damaged, whatever it says; nothing of its size is allocated."""
    path, header = tmp_path / "x.safetensors", HOSTILE[kind]
    path.write_bytes(struct.pack("<Q", len(header)) + header + bytes(4))
    assert refused(path).startswith(f"the header of {path} is damaged: ")


def test_lengths_that_lie(tmp_path):
    """A length that no header has, or that is more than the file's, is refused before so much is read."""
    path = tmp_path / "x.safetensors"
    for length, said in [
        (2**63, "its header would have 9223372036854775808 bytes"),
        (25_000_001, "its header would have 25000001 bytes"),
        (1000, "is cut off: its header has 1000 bytes, but only 2 are left for it"),
    ]:
        path.write_bytes(struct.pack("<Q", length) + b"{}")
        assert said in refused(path)


def test_the_longest_header(tmp_path):
    """A header of nearly the 25 MB that are allowed is read within seconds."""
    tensors = {f"{number}{'x' * 12_000}": ("F16", [1]) for number in range(2_050)}
    path = write(tmp_path / "x.safetensors", tensors)
    assert 24_000_000 < path.stat().st_size < 25_000_000
    started = time.monotonic()
    assert len(weights_at(path).header.tensors) == len(tensors)
    assert time.monotonic() - started < 10


@pytest.mark.parametrize(
    ("files", "subfolder", "found"),
    [
        ([WEIGHTS, "model.safetensors"], None, WEIGHTS),
        (["unet/diffusion_pytorch_model.fp16.safetensors"], None, "unet/diffusion_pytorch_model.fp16.safetensors"),
        (["diffusion_pytorch_model.safetensors"], None, "diffusion_pytorch_model.safetensors"),
        (["model.safetensors"], "", "model.safetensors"),
        (["adapter_model.safetensors"], None, "adapter_model.safetensors"),
        (["pytorch_lora_weights.safetensors"], None, "pytorch_lora_weights.safetensors"),
        (["a/adapter_model.safetensors"], "a", "a/adapter_model.safetensors"),
        ([f"a/diffusion_pytorch_model.{INDEX[6:]}", "model.safetensors"], "a", f"a/diffusion_pytorch_model.{INDEX[6:]}"),
    ],
)
def test_finds_the_weights(tmp_path, files, subfolder, found):
    """In a folder the UNet's weights are those under diffusers' own names, in the pipeline or at the root."""
    for file in files:
        write(tmp_path / file)
        if file.endswith(".index.json"):
            write(tmp_path / "a" / "part.safetensors")
            (tmp_path / file).write_bytes(as_json({"weight_map": {"a": "part.safetensors"}}))
    assert find_weights(Folder(tmp_path), subfolder).source.location == str(tmp_path / found)


def test_finds_no_weights(tmp_path):
    """A folder without them says what it has instead."""

    def said():
        with pytest.raises(SourceError) as caught:
            find_weights(Folder(tmp_path), None)
        return caught.value.message, caught.value.hint

    nothing = f"{tmp_path} has no weights under diffusers' names for a UNet"
    assert said() == (nothing, f"name the file: {tmp_path / 'FILE.safetensors'}")
    for name in ("adapter_model.safetensors", "other.safetensors"):  # one of several is not the folder's own
        write(tmp_path / name)
    assert said() == (nothing, f"name the file: {tmp_path / 'adapter_model.safetensors'} (and 1 more)")
    for name in ("adapter_model.safetensors", "other.safetensors"):
        (tmp_path / name).unlink()
    (tmp_path / "sd.ckpt").touch()
    assert said()[0].startswith(f"{tmp_path} has no weights but sd.ckpt, which is a pickle")
    write(tmp_path / "sd-v1.safetensors")
    assert said() == (nothing, f"name the file: {tmp_path / 'sd-v1.safetensors'}")


ANY_JSON = st.recursive(st.none() | st.text() | st.integers(), st.lists, max_leaves=5).map(lambda value: json.dumps(value).encode())


@given(st.binary(max_size=300) | ANY_JSON)
def test_any_bytes_are_read_or_refused(tmp_path_factory, body):
    """No file ends in an error of Python's, with a true length before it or without."""
    path = tmp_path_factory.getbasetemp() / "any.safetensors"
    for raw in (body, struct.pack("<Q", len(body)) + body):
        path.write_bytes(raw)
        with contextlib.suppress(UnetInspectError):
            assert weights_at(path).header.files == 1


@given(st.text())
def test_names_in_an_index_stay_in_its_folder(name):
    """Whatever name an index lists, what is accepted is beside it."""
    with contextlib.suppress(SourceError):
        assert [(Path("/folder") / found).parent for found in shard_names({"weight_map": {"a": name}}, what="x")] == [Path("/folder")]
