"""What names a model on the hub: an ID, an hf:// address, a pasted page. Text only: nothing is fetched."""

from __future__ import annotations

import re
from posixpath import basename, dirname
from urllib.parse import unquote, urlsplit

from msgspec import Struct
from msgspec.structs import replace

from unetinspect.errors import SourceError, UsageError
from unetinspect.source.weight_files import is_pickle, is_weights, pickle_error

DEFAULT_ENDPOINT = "https://huggingface.co"

_HOSTS = ("huggingface.co", "www.huggingface.co", "hf.co", "hub-ci.huggingface.co")
_OTHER_REPOS = ("datasets", "spaces", "collections", "papers", "buckets", "kernels")
_PART = re.compile(r"[A-Za-z0-9_]([\w.-]*[A-Za-z0-9_])?", re.ASCII)
_REVISION = re.compile(r"[\w.+-]+(/[\w.+-]+)*", re.ASCII)
_SPECIAL_REVISION = re.compile(r"(refs/(?:pr|convert)/[^/]+)(?:/|$)(.*)")
_FILE = re.compile(r"\.(json|ya?ml|txt|md|py|safetensors|ckpt|bin|pth?|pkl|gguf|onnx|msgpack|h5)$", re.IGNORECASE)
_A_PAGE = "give the page of a model: https://huggingface.co/org/name"


class HubId(Struct, frozen=True, kw_only=True):
    """A place on the hub.

    Attributes:
        repo_id: "org/name".
        revision: A branch, tag or commit, None: the main one.
        folder: The folder whose config.json is meant, "": the root's own, None: wherever the UNet is.
        file: The file of weights that is meant, or the index of several; its path in the repository. None: a config is.
    """

    repo_id: str
    revision: str | None = None
    folder: str | None = None
    file: str | None = None


def parse_hub_id(text: str, *, endpoint: str = DEFAULT_ENDPOINT) -> HubId | None:
    """Read what may name a hub repository; None: it does not look like one.

    Raises:
        SourceError: It looks like one and is not: a file that is not a config, a data set, another site.

    >>> parse_hub_id("hf://org/name@v1/unet")
    HubId(repo_id='org/name', revision='v1', folder='unet', file=None)
    >>> parse_hub_id("sdxl") is None
    True
    """
    if text.startswith("hf://"):
        return _parse_hf_uri(text)
    page = _page_path(text, endpoint)
    if page is not None:
        return _parse_page(text, page)
    if "/" not in text:
        return None
    if is_repo_id(text):
        return HubId(repo_id=text)
    org, name, *inside = text.split("/")
    folder = "/".join(filter(None, inside))
    hint = "a hub ID is org/name, as in stable-diffusion-v1-5/stable-diffusion-v1-5"
    if on_hub := file_on_hub(text):
        hint = f"for a file of a hub repository: {on_hub}"
    elif folder and is_repo_id(f"{org}/{name}"):
        hint = f"for a folder of a hub repository: {org}/{name} --subfolder {folder}"
    raise SourceError(f"there is no file or folder {short(text)}, and it is not a hub ID either", hint=hint)


def file_on_hub(text: str) -> str:
    """Return the address of a file of weights that was written as if it were a path; "" where it cannot be one.

    >>> file_on_hub("org/name/unet/x.safetensors")
    'hf://org/name/unet/x.safetensors'
    """
    org, name, *inside = [*text.split("/"), ""]
    path = "/".join(filter(None, inside))
    return f"hf://{org}/{name}/{path}" if is_weights(path) and is_repo_id(f"{org}/{name}") else ""


def with_options(found: HubId, *, revision: str | None, subfolder: str | None) -> HubId:
    """Add what the options say.

    Raises:
        UsageError: The address says something else, or a value is not a revision or a folder.
    """
    if revision is not None and not _is_revision(revision):
        raise UsageError(f"invalid --revision {short(revision)}", hint="give a branch, a tag or a commit of the repository")
    folder = None if subfolder is None else clean_folder(subfolder)
    for option, given, said in (("--revision", revision, found.revision), ("--subfolder", folder, found.folder)):
        if given is not None and said is not None and given != said:
            raise UsageError(f"{option} {short(given)} contradicts MODEL, which says {short(said)}", hint="give it once")
    if folder is not None and found.file is not None:
        raise UsageError(f"--subfolder {short(folder)} does not apply: MODEL names the file {short(found.file)}", hint="leave it out")
    return replace(found, revision=found.revision if revision is None else revision, folder=found.folder if folder is None else folder)


def clean_folder(subfolder: str) -> str:
    """Return a folder's path without slashes at its ends; "" is the root.

    Raises:
        UsageError: It leads out of the repository.

    >>> clean_folder("./unet/")
    'unet'
    """
    parts = [part for part in subfolder.replace("\\", "/").split("/") if part not in ("", ".")]
    if ".." in parts or not all(part.isprintable() for part in parts):
        raise UsageError(f"invalid --subfolder {short(subfolder)}", hint="name a folder inside the model's own: --subfolder unet")
    return "/".join(parts)


def is_repo_id(text: str) -> bool:
    """Return whether the hub could have a repository of that name.

    >>> is_repo_id("org/name"), is_repo_id("org/na--me"), is_repo_id("a/b/c")
    (True, False, False)
    """
    parts = text.split("/")
    return (
        len(parts) == 2
        and all(map(_PART.fullmatch, parts))
        and len(text) <= 96
        and not any(bad in text for bad in ("--", ".."))
        and not text.endswith(".git")
    )


def looks_like_path(text: str) -> bool:
    """Return whether the text can only have been meant as a path: it starts or ends as one."""
    return text.startswith((".", "/", "~", "\\")) or text.endswith(("/", "\\")) or ("://" not in text and _FILE.search(text) is not None)


def short(text: str) -> str:
    """Quote what the user gave, cut where it is too long to be a name.

    >>> short("x" * 100)[-8:]
    "xxxx...'"
    """
    return repr(text if len(text) <= 80 else text[:77] + "...")


def check_endpoint(endpoint: str) -> None:
    """Refuse a hub's address, as HF_ENDPOINT gives it, that could not be asked."""
    home = _split(endpoint)
    if home is None or not home[0] or not endpoint.startswith(("http://", "https://")):
        raise SourceError(f"HF_ENDPOINT is {short(endpoint)}, which is not an address", hint=f"unset it, or write it as {DEFAULT_ENDPOINT}")


def _page_path(text: str, endpoint: str) -> str | None:
    """Return what follows the hub's own address in a page's address; None where `text` is none."""
    if text.lower().startswith(tuple(f"{host}/" for host in _HOSTS)):
        text = f"https://{text}"
    if not text.lower().startswith(("http://", "https://")):
        return None
    page, home = _split(text), _split(endpoint)
    for host, root in ([(home[0], home[1].rstrip("/"))] if home else []) + [(host, "") for host in _HOSTS]:
        if page is not None and page[0] == host and f"{page[1]}/".startswith(f"{root}/"):
            return page[1][len(root) :]
    raise SourceError(
        f"{page[0] if page else 'this address'} is not the model hub",
        hint=f"pages of {endpoint} are read; for a mirror set HF_ENDPOINT; else give the path of a saved config.json",
    )


def _split(address: str) -> tuple[str, str] | None:
    try:
        parts = urlsplit(address)
        port = f":{parts.port}" if parts.port not in (None, 80, 443) else ""
    except ValueError:
        return None
    return f"{parts.hostname or ''}{port}", parts.path


def _parse_page(text: str, path: str) -> HubId:
    parts = [unquote(part) for part in re.split(r"[?#]", path, maxsplit=1)[0].split("/") if part]
    if parts and parts[0] in _OTHER_REPOS:
        raise SourceError(f"this is a page of the hub's {parts[0]}, not of a model", hint=_A_PAGE)
    repo_id = "/".join(parts[:2]).removesuffix(".git")
    if not is_repo_id(repo_id):
        raise SourceError(f"{short(text)} is not the page of a model", hint=_A_PAGE)
    if len(parts) <= 3 or parts[2] not in ("tree", "blob", "resolve", "raw"):
        return HubId(repo_id=repo_id)
    revision, inside = _revision_in("/".join(parts[3:]), text)
    return _place(repo_id, revision, inside, is_file=parts[2] != "tree")


def _parse_hf_uri(text: str) -> HubId:
    org, _, rest = text.removeprefix("hf://").removeprefix("models/").strip("/").partition("/")
    if org in _OTHER_REPOS:
        raise SourceError(f"{short(text)} is of the hub's {org}, not a model", hint="write hf://org/name@revision/path")
    name, mark, inside = re.split(r"([@/])", f"{rest}/", maxsplit=1)
    repo_id, inside = f"{org}/{name}", inside.removesuffix("/")
    if not is_repo_id(repo_id):
        hint = "write hf://org/name, hf://org/name/unet or hf://org/name@revision/unet"
        raise SourceError(f"{short(text)} is not an address of a model", hint=hint)
    revision, inside = _revision_in(inside, text) if mark == "@" else (None, inside)
    return _place(repo_id, revision, inside, is_file=False)


def _revision_in(path: str, text: str) -> tuple[str, str]:
    """Split "revision/folder", as in the address `text`; a revision such as refs/pr/3 has slashes of its own."""
    special = _SPECIAL_REVISION.match(path)
    revision, _, inside = (special[1], "", special[2]) if special else path.partition("/")
    if not _is_revision(unquote(revision)):
        raise SourceError(f"invalid revision in {short(text)}", hint="give a branch, a tag or a commit: hf://org/name@main/unet")
    return unquote(revision), inside


def _place(repo_id: str, revision: str | None, path: str, *, is_file: bool) -> HubId:
    """Return what a path in a repository means; a pipeline's index, or no path, leaves the search open."""
    path = clean_folder(path)
    folder, name = dirname(path), basename(path)
    if is_weights(name):
        return HubId(repo_id=repo_id, revision=revision, file=path)
    if is_pickle(name):
        raise pickle_error(short(path), hint="give the .safetensors of the same repository")
    if name == "model_index.json":
        return HubId(repo_id=repo_id, revision=revision, folder=folder or None)
    if name == "config.json":
        return HubId(repo_id=repo_id, revision=revision, folder=folder)
    if path and (is_file or _FILE.search(name)):
        raise SourceError(
            f"{short(path)} is not a config.json or a .safetensors file",
            hint="give the page of the model, its unet folder, its config.json or its .safetensors file",
        )
    return HubId(repo_id=repo_id, revision=revision, folder=path or None)


def _is_revision(revision: str) -> bool:
    return _REVISION.fullmatch(revision) is not None and ".." not in revision
