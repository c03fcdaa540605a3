"""Headers of safetensors files on this machine: what is read of them, and the files that only say that they are some."""

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

from tests.hub_server import as_json, safetensors
from unetinspect.errors import SourceError, UnetInspectError
from unetinspect.source.checkpoint import find_weights, weights_at
from unetinspect.source.place import Folder
from unetinspect.source.weight_files import shard_names

TENSORS = {"conv_in.weight": ("F16", [32, 4, 3, 3]), "conv_in.bias": ("BF16", [32])}
INDEX = "model.safetensors.index.json"


def write(path, tensors=TENSORS, **options):
    """Write a file of which the header is really there, and the weights are a hole."""
    start, size = safetensors(tensors, **options)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(start)
    os.truncate(path, size)
    return path


def write_raw(path, header, *, tail=b""):
    """Write a file with this text as its header."""
    path.write_bytes(struct.pack("<Q", len(header)) + header + tail)
    return path


def read_local_header(path):
    """Read the header of a file, or of all files of an index."""
    return weights_at(path).header


def refused(path):
    """Return what is said of a file that cannot be read as weights."""
    with pytest.raises(SourceError) as caught:
        read_local_header(path)
    assert caught.value.hint
    return caught.value.message


def test_reads_names_shapes_and_dtypes(tmp_path):
    """The header of a file of 7 GB is read in no time: nothing else is."""
    weights = {**TENSORS, "weight": ("F16", [7 * 2**29])}
    path = write(tmp_path / "x.safetensors", weights, metadata={"format": "pt"})
    assert path.stat().st_size > 7 * 2**30
    header = read_local_header(path)
    assert {name: (spec.dtype, list(spec.shape)) for name, spec in header.tensors.items()} == weights
    assert (header.name, header.metadata, header.files) == (str(path), {"format": "pt"}, 1)
    assert header.bytes == 2 * (32 * 4 * 9 + 32 + 7 * 2**29)


def test_the_same_as_the_format_s_own_library(tmp_path):
    """A file that safetensors itself wrote is read as safetensors reads it."""
    numpy, library = pytest.importorskip("numpy"), pytest.importorskip("safetensors.numpy")
    arrays = {"a": numpy.zeros((2, 3), numpy.float16), "b": numpy.zeros((), numpy.int64), "c": numpy.zeros((0, 4), numpy.float32)}
    library.save_file(arrays, tmp_path / "x.safetensors", metadata={"k": "v"})
    header = read_local_header(tmp_path / "x.safetensors")
    assert {name: spec.shape for name, spec in header.tensors.items()} == {name: array.shape for name, array in arrays.items()}
    assert {name: spec.dtype for name, spec in header.tensors.items()} == {"a": "F16", "b": "I64", "c": "F32"}
    assert (header.bytes, header.metadata) == (sum(array.nbytes for array in arrays.values()), {"k": "v"})


def test_reads_all_files_of_an_index(tmp_path):
    """An index brings the tensors of its files as one; a link beside it is followed, as the hub's cache has them."""
    write(tmp_path / "blobs" / "abc", {"a": ("F16", [1])})
    (tmp_path / "part-1.safetensors").symlink_to(tmp_path / "blobs" / "abc")
    write(tmp_path / "part-2.safetensors", {"b": ("F16", [2])})
    (tmp_path / INDEX).write_bytes(as_json({"weight_map": {"a": "part-1.safetensors", "b": "part-2.safetensors"}}))
    header = read_local_header(tmp_path / INDEX)
    assert (list(header.tensors), header.files, header.bytes, header.name) == (["a", "b"], 2, 6, str(tmp_path / INDEX))


@pytest.mark.parametrize(
    "name",
    [
        "../x.safetensors",
        "/etc/x.safetensors",
        "sub/x.safetensors",
        "..",
        "C:x.safetensors",
        "\\\\host\\x.safetensors",
        "https://a/x.safetensors",
    ],
)
def test_index_that_leads_elsewhere(tmp_path, name):
    """An index is followed in its own folder and nowhere else."""
    write(tmp_path / "x.safetensors")
    write(tmp_path / "in" / "sub" / "x.safetensors")
    (tmp_path / "in" / INDEX).write_bytes(as_json({"weight_map": {"a": name}}))
    assert "its index points out of its own folder, to " in refused(tmp_path / "in" / INDEX)


@pytest.mark.parametrize(
    ("index", "said"),
    [
        ({}, "is not a weights index: it has no weight_map"),
        ({"weight_map": {}}, "is not a weights index: it has no weight_map"),
        ({"weight_map": [1]}, "is not a weights index: it has no weight_map"),
        ({"weight_map": {"a": None}}, "lists 'None', which is not a .safetensors file"),
        ({"weight_map": {"a": "x.bin"}}, "is a pickle; pickles can execute code"),
        ({"weight_map": {str(n): f"{n}.safetensors" for n in range(201)}}, "lists 201 files, and at most 200 are read"),
        ({"weight_map": {"a": "gone.safetensors"}}, "there is no file gone.safetensors of "),
        ({"weight_map": {"a": "x.safetensors", "b": "y.safetensors"}}, "two of its files hold the tensor 'conv_in.weight'"),
    ],
)
def test_index_that_is_none(tmp_path, index, said):
    """An index that lists nothing, too much, what is no safetensors file or what is not there is told as that."""
    write(tmp_path / "x.safetensors")
    write(tmp_path / "y.safetensors")
    (tmp_path / INDEX).write_bytes(as_json(index))
    assert said in refused(tmp_path / INDEX)


def test_what_is_no_regular_file(tmp_path):
    """A folder, a pipe and a device of that name are refused at once: reading a pipe would wait for a writer forever."""
    (tmp_path / "a.safetensors").mkdir()
    os.mkfifo(tmp_path / "b.safetensors")
    (tmp_path / "c.safetensors").symlink_to("/dev/zero")
    started = time.monotonic()
    said = [refused(tmp_path / f"{name}.safetensors").rpartition(" is ")[2] for name in "abc"]
    assert said == ["a folder, not a weights file", "a pipe, not a weights file", "a device, not a weights file"]
    assert time.monotonic() - started < 1


def test_what_cannot_be_opened(tmp_path):
    """A file that is not there, a link to itself and a name that none can have are told in a sentence."""
    assert refused(tmp_path / "x.safetensors") == f"there is no file {tmp_path / 'x.safetensors'}"
    (tmp_path / "y.safetensors").symlink_to("y.safetensors")
    assert refused(tmp_path / "y.safetensors").endswith(" cannot be read: too many levels of symbolic links")
    assert refused(Path("x\0.safetensors")).endswith(" cannot be read: its name cannot be one")


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read every file")
def test_what_may_not_be_read(tmp_path):
    """A file that may not be read is told as that."""
    path = write(tmp_path / "x.safetensors")
    path.chmod(0)
    assert refused(path).endswith(" cannot be read: permission denied")


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
    "metadata that is none": as_json({"__metadata__": {"a": [1]}}),
    "nothing": b"  ",
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_headers(tmp_path, kind):
    """A header that says what cannot be is told as damaged, whatever it says; nothing of its size is made."""
    said = refused(write_raw(tmp_path / "x.safetensors", HOSTILE[kind], tail=bytes(4)))
    assert said.startswith(f"the header of {tmp_path / 'x.safetensors'} is damaged: ")


@pytest.mark.parametrize(
    ("prefix", "said"),
    [
        (struct.pack("<Q", 2**63), "says that its header has 9223372036854775808 bytes"),
        (struct.pack("<Q", 25_000_001), "says that its header has 25000001 bytes"),
        (struct.pack("<Q", 1000), "is cut off: its header has 1000 bytes, and the file only 2 for it"),
        (b"", "has 0 bytes, and is no safetensors file"),
    ],
)
def test_lengths_that_lie(tmp_path, prefix, said):
    """A length that no header has, or more than there is, is refused before so much is read."""
    path = tmp_path / "x.safetensors"
    path.write_bytes(prefix + (b"{}" if prefix else b""))
    assert said in refused(path)


def test_the_longest_header(tmp_path):
    """A header of nearly the 25 MB that are allowed is read within seconds."""
    tensors = {f"{number:05d}" + "x" * 1000: ("F16", [1]) for number in range(23_000)}
    path = write(tmp_path / "x.safetensors", tensors)
    assert 24_000_000 < path.stat().st_size - 2 * len(tensors) < 25_000_000
    started = time.monotonic()
    assert len(read_local_header(path).tensors) == len(tensors)
    assert time.monotonic() - started < 10


def test_pickles_are_never_opened(tmp_path):
    """A pickle is refused by its name, so that not a byte of it is read: here it is a pipe, which would wait."""
    os.mkfifo(tmp_path / "model.ckpt")
    said = refused(tmp_path / "model.ckpt")
    assert said == f"{tmp_path / 'model.ckpt'} is a pickle; pickles can execute code, so they are never opened"


@pytest.mark.parametrize(
    ("files", "subfolder", "found"),
    [
        (["unet/diffusion_pytorch_model.safetensors", "model.safetensors"], None, "unet/diffusion_pytorch_model.safetensors"),
        (["unet/diffusion_pytorch_model.fp16.safetensors"], None, "unet/diffusion_pytorch_model.fp16.safetensors"),
        (["diffusion_pytorch_model.safetensors"], None, "diffusion_pytorch_model.safetensors"),
        (
            ["a/diffusion_pytorch_model.safetensors.index.json", "model.safetensors"],
            "a",
            "a/diffusion_pytorch_model.safetensors.index.json",
        ),
    ],
)
def test_finds_the_weights(tmp_path, files, subfolder, found):
    """In a folder the UNet's weights are those under diffusers' own names."""
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

    assert said() == (f"{tmp_path} has no weights of a UNet", "give the .safetensors file itself")
    (tmp_path / "sd.ckpt").touch()
    assert said()[0].startswith(f"{tmp_path} has no weights but sd.ckpt, which is a pickle")
    write(tmp_path / "sd-v1.safetensors")
    assert said()[1] == f"name them: {tmp_path / 'sd-v1.safetensors'}"


@given(
    st.binary(max_size=300)
    | st.recursive(st.none() | st.text() | st.integers(), st.lists, max_leaves=5).map(lambda v: json.dumps(v).encode())
)
def test_any_bytes_are_read_or_refused(tmp_path_factory, body):
    """No file ends in what a user would take for a bug, with a true length before it or without."""
    path = tmp_path_factory.getbasetemp() / "any.safetensors"
    for raw in (body, struct.pack("<Q", len(body)) + body):
        path.write_bytes(raw)
        # Anything else that is raised fails the test.
        with contextlib.suppress(UnetInspectError):
            assert read_local_header(path).files == 1


@given(st.text())
def test_names_in_an_index_stay_in_its_folder(name):
    """Whatever name an index lists, what is accepted lies beside it."""
    try:
        names = shard_names({"weight_map": {"a": name}}, what="x")
    except SourceError:
        return
    folder = Path("/folder")
    assert [(folder / found).parent for found in names] == [folder]
