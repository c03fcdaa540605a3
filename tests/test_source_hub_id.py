"""What names a model on the hub: IDs, hf:// addresses, pasted pages. Text only."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unetinspect.errors import SourceError, UsageError
from unetinspect.source.hub_id import HubId, clean_folder, is_repo_id, parse_hub_id, with_options

# By address: the revision, the folder and the file that are meant.
PLACES = {
    "org/name": (None, None, None),
    "hf://org/name": (None, None, None),
    "hf://models/org/name/": (None, None, None),
    "hf://org/name/unet": (None, "unet", None),
    "hf://org/name@fp16": ("fp16", None, None),
    "hf://org/name@fp16/unet/config.json": ("fp16", "unet", None),
    "hf://org/name@refs/pr/3/unet": ("refs/pr/3", "unet", None),
    "hf://org/name@refs%2Fpr%2F3/unet": ("refs/pr/3", "unet", None),
    "hf://org/name/config.json": (None, "", None),
    "hf://org/name/unet/model.safetensors": (None, None, "unet/model.safetensors"),
    "hf://org/name@refs/pr/3/model.safetensors": ("refs/pr/3", None, "model.safetensors"),
    "hf://org/name/unet/model.safetensors.index.json": (None, None, "unet/model.safetensors.index.json"),
    "https://huggingface.co/org/name/": (None, None, None),
    "https://huggingface.co/org/name.git": (None, None, None),
    "https://huggingface.co/org/name/discussions/4": (None, None, None),
    "https://huggingface.co/org/name/tree/main": ("main", None, None),
    "https://huggingface.co/org/name/tree/main/unet?show=1#L2": ("main", "unet", None),
    "https://huggingface.co/org/name/blob/main/unet/config.json": ("main", "unet", None),
    "https://huggingface.co/org/name/resolve/v1.0/config.json": ("v1.0", "", None),
    "https://huggingface.co/org/name/raw/main/model_index.json": ("main", None, None),
    "https://huggingface.co/org/name/tree/refs%2Fpr%2F3/unet": ("refs/pr/3", "unet", None),
    "https://huggingface.co/org/name/tree/feature%2Fx/my%20unet": ("feature/x", "my unet", None),
    "https://huggingface.co/org/name/resolve/v1/unet/model.SAFETENSORS?download=true": ("v1", None, "unet/model.SAFETENSORS"),
    "https://HuggingFace.co/org/name": (None, None, None),
    "huggingface.co/org/name/tree/main/prior": ("main", "prior", None),
    "hf.co/org/name": (None, None, None),
}


@pytest.mark.parametrize(("text", "place"), PLACES.items(), ids=PLACES)
def test_addresses_of_a_model(text, place):
    """Each way to write a place on the hub says the repository, and the revision, folder or file that is meant."""
    revision, folder, file = place
    assert parse_hub_id(text) == HubId(repo_id="org/name", revision=revision, folder=folder, file=file)


@pytest.mark.parametrize("endpoint", ["http://127.0.0.1:8080", "https://mirror.example/hf/", "https://mirror.example"])
def test_pages_of_a_mirror(endpoint):
    """A page of whatever HF_ENDPOINT names is the hub's, a path before the ID included."""
    page = f"{endpoint.rstrip('/')}/org/name/tree/main/unet"
    assert parse_hub_id(page, endpoint=endpoint) == HubId(repo_id="org/name", revision="main", folder="unet")


@pytest.mark.parametrize("text", ["sdxl", "sd 15", "no-such-name", "name.with.dots"])
def test_bare_names_are_not_ids(text):
    """What has no slash names no repository."""
    assert parse_hub_id(text) is None


A_MODEL = "write org/name, hf://org/name/unet or hf://org/name@revision/unet, or paste the address of a model's page"
REFUSED = {
    "a/b/c": ("there is no file or folder 'a/b/c', and it is not a hub ID either", "for a folder of a hub repository: a/b --subfolder c"),
    "org/na me": (
        "there is no file or folder 'org/na me', and it is not a hub ID either",
        "a hub ID is org/name, as in stable-diffusion-v1-5/stable-diffusion-v1-5",
    ),
    "https://huggingface.co/datasets/org/name": (
        "'https://huggingface.co/datasets/org/name' is one of the hub's datasets, not a model",
        A_MODEL,
    ),
    "https://huggingface.co/org": ("'https://huggingface.co/org' is not the address of a model", A_MODEL),
    "https://user:secret@example.com/org/name": (
        "example.com is not the model hub",
        "pages of https://huggingface.co are read; for a mirror set HF_ENDPOINT; else give the path of a saved config.json",
    ),
    "hf://org/name/README.md": (
        "'README.md' is not a config.json or a .safetensors file",
        "give the page of the model, its unet folder, its config.json or its .safetensors file",
    ),
    "https://huggingface.co/org/name/blob/main/sd-v1-4.ckpt": (
        "'sd-v1-4.ckpt' is a pickle; pickles can execute code, so they are never opened",
        "give the .safetensors of the same repository",
    ),
    "hf://spaces/org/name": ("'hf://spaces/org/name' is one of the hub's spaces, not a model", A_MODEL),
    "hf://org": ("'hf://org' is not the address of a model", A_MODEL),
    "hf://org/name@../x": (
        "invalid revision in 'hf://org/name@../x'",
        "give a branch, a tag or a commit: hf://org/name@main/unet",
    ),
}


@pytest.mark.parametrize(("text", "said"), REFUSED.items(), ids=REFUSED)
def test_what_is_not_a_model_on_the_hub(text, said):
    """What looks like the address of a model and is not says why, and what to write."""
    with pytest.raises(SourceError) as caught:
        parse_hub_id(text)
    assert (caught.value.message, caught.value.hint) == said


def test_options_complete_an_address():
    """--revision and --subfolder add what MODEL left open, and may repeat it."""
    place = HubId(repo_id="org/name", revision="main")
    assert with_options(place, revision="main", subfolder="/unet/") == HubId(repo_id="org/name", revision="main", folder="unet")


def test_a_file_has_no_subfolder():
    """--revision goes with a file of weights; --subfolder does not, since the file has a folder."""
    place = HubId(repo_id="org/name", file="unet/model.safetensors")
    assert with_options(place, revision="v1", subfolder=None) == HubId(repo_id="org/name", revision="v1", file="unet/model.safetensors")
    with pytest.raises(UsageError) as caught:
        with_options(place, revision=None, subfolder="unet")
    assert caught.value.message == "--subfolder 'unet' does not apply: MODEL names the file 'unet/model.safetensors'"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"revision": "dev", "subfolder": None}, "--revision 'dev' contradicts MODEL, which says 'main'"),
        ({"revision": None, "subfolder": "prior"}, "--subfolder 'prior' contradicts MODEL, which says 'unet'"),
        ({"revision": "../x", "subfolder": None}, "invalid --revision '../x'"),
        ({"revision": None, "subfolder": "../x"}, "invalid --subfolder '../x'"),
    ],
)
def test_options_that_contradict_an_address(options, message):
    """An option that says another place than MODEL, or one outside the repository, is refused."""
    with pytest.raises(UsageError) as caught:
        with_options(HubId(repo_id="org/name", revision="main", folder="unet"), **options)
    assert caught.value.message == message


ADDRESSES = st.builds(
    "{}{}".format, st.sampled_from(["hf://", "https://huggingface.co/", "https://", "http://["]), st.text("hf:/@.%ab?#[]0-\\")
)


@given(st.one_of(st.text(), ADDRESSES))
def test_any_text_is_read_or_refused(text):
    """No text ends in an error of Python's, and what is accepted stays inside a repository."""
    try:
        found = parse_hub_id(text)
    except (SourceError, UsageError):
        return
    if found is not None:
        assert is_repo_id(found.repo_id)
        assert found.folder is None or clean_folder(found.folder) == found.folder
        assert found.file is None or clean_folder(found.file) == found.file
