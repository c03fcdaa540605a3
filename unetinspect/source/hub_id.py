"""What names a model on the hub: an ID, an hf:// address, a pasted page. Text only: nothing is fetched."""

from __future__ import annotations

import re
from posixpath import basename, dirname
from urllib.parse import unquote, urlsplit

from msgspec import Struct
from msgspec.structs import replace

from unetinspect.errors import SourceError, UsageError
from unetinspect.source.place import is_file_name, is_weights, unread_weights

DEFAULT_ENDPOINT = "https://huggingface.co"

_HOSTS = ("huggingface.co", "www.huggingface.co", "hf.co", "hub-ci.huggingface.co")
_OTHER_REPOS = ("datasets", "spaces", "collections", "papers", "buckets", "kernels")
_PART = re.compile(r"[A-Za-z0-9_]([\w.-]*[A-Za-z0-9_])?", re.ASCII)
_REVISION = re.compile(r"[\w.+-]+(/[\w.+-]+)*", re.ASCII)
_SPECIAL_REVISION = re.compile(r"(refs/(?:pr|convert)/[^/]+)(?:/(.*))?")
# org/name@revision/path, and the path of a page: org/name/tree/revision/path. The groups: repository, view, revision and path, path.
_URI = re.compile(r"([^/]+/[^/@]+)()(?:@([^/].*)|/(.*))?")
_PAGE = re.compile(r"([^/]+/[^/]+?)(?:\.git)?(?:/(tree|blob|resolve|raw)/(.+)|/.*)?()")
_A_MODEL = "write org/name, hf://org/name/unet or hf://org/name@revision/unet, or paste the address of a model's page"


class HubId(Struct, frozen=True, kw_only=True):
    """A place on the hub.

    Attributes:
        repo_id: "org/name".
        revision: A branch, tag or commit; None: the main branch.
        folder: The folder whose config.json to read; "": the root; None: wherever the UNet is.
        file: The path of a file of weights, or of the index of several; None: a config.
    """

    repo_id: str
    revision: str | None = None
    folder: str | None = None
    file: str | None = None


def parse_hub_id(text: str, *, endpoint: str = DEFAULT_ENDPOINT) -> HubId | None:
    """Parse what may name a hub repository; None: it does not look like one.

    Raises:
        SourceError: It looks like one and is not: a file that is not a config, a data set, another site.

    >>> parse_hub_id("hf://org/name@v1/unet")
    HubId(repo_id='org/name', revision='v1', folder='unet', file=None)
    >>> parse_hub_id("sdxl") is None
    True
    """
    if text.startswith("hf://"):
        return _parse_address(text, text.removeprefix("hf://").removeprefix("models/"), _URI)
    page = _page_path(text, endpoint)
    if page is not None:
        return _parse_address(text, page, _PAGE)
    if "/" not in text:
        return None
    if is_repo_id(text):
        return HubId(repo_id=text)
    org, name, *inside = text.split("/")
    folder = "/".join(filter(None, inside))
    hint = "a hub ID is org/name, as in stable-diffusion-v1-5/stable-diffusion-v1-5"
    if folder and is_repo_id(f"{org}/{name}"):
        hint = f"for a folder of a hub repository: {org}/{name} --subfolder {folder}"
    raise SourceError(f"there is no file or folder {short(text)}, and it is not a hub ID either", hint=hint)


def with_options(found: HubId, *, revision: str | None, subfolder: str | None) -> HubId:
    """Add --revision and --subfolder.

    Raises:
        UsageError: The address contradicts them, or a value is not a revision or a folder.
    """
    if revision is not None and not _is_revision(revision):
        raise UsageError(f"invalid --revision {short(revision)}", hint="give a branch, a tag or a commit of the repository")
    folder = None if subfolder is None else clean_folder(subfolder)
    for option, given, named in (("--revision", revision, found.revision), ("--subfolder", folder, found.folder)):
        if given is not None and named is not None and given != named:
            raise UsageError(f"{option} {short(given)} contradicts MODEL, which says {short(named)}", hint="give it once")
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
    is_valid = len(parts) == 2 and len(text) <= 96 and all(map(_PART.fullmatch, parts))
    return is_valid and "--" not in text and ".." not in text and not text.endswith(".git")


def looks_like_path(text: str) -> bool:
    """Return whether the text starts or ends as only a path does."""
    return text.startswith((".", "/", "~", "\\")) or text.endswith(("/", "\\")) or ("://" not in text and is_file_name(text))


def short(text: str) -> str:
    """Quote what the user typed, cut if it is too long to be a name.

    >>> short("x" * 100)[-8:]
    "xxxx...'"
    """
    return repr(text if len(text) <= 80 else text[:77] + "...")


def check_endpoint(endpoint: str) -> None:
    """Refuse an HF_ENDPOINT that is not an address."""
    home = _host_and_path(endpoint)
    if home is None or not home[0] or not endpoint.startswith(("http://", "https://")):
        raise SourceError(f"HF_ENDPOINT is {short(endpoint)}, which is not an address", hint=f"unset it, or write it as {DEFAULT_ENDPOINT}")


def _page_path(text: str, endpoint: str) -> str | None:
    """Return the path of a page of the hub at `endpoint`; None: `text` is not the address of a page."""
    if text.lower().startswith(tuple(f"{host}/" for host in _HOSTS)):
        text = f"https://{text}"
    if not text.lower().startswith(("http://", "https://")):
        return None
    page, home = _host_and_path(text), _host_and_path(endpoint)
    roots = dict.fromkeys(_HOSTS, "") | ({home[0]: home[1].rstrip("/")} if home else {})
    if page is not None and page[0] in roots and f"{page[1]}/".startswith(f"{roots[page[0]]}/"):
        return page[1].removeprefix(roots[page[0]])
    raise SourceError(
        f"{page[0] if page else 'this address'} is not the model hub",
        hint=f"pages of {endpoint} are read; for a mirror set HF_ENDPOINT; else give the path of a saved config.json",
    )


def _host_and_path(address: str) -> tuple[str, str] | None:
    try:
        parts = urlsplit(address)
        port = f":{parts.port}" if parts.port not in (None, 80, 443) else ""
    except ValueError:
        return None
    return f"{parts.hostname or ''}{port}", parts.path


def _parse_address(text: str, path: str, form: re.Pattern[str]) -> HubId:
    """Parse the `path` in the address `text`, which has the `form` of a URI or a page."""
    path = "/".join(filter(None, path.split("/")))
    kind = path.partition("/")[0]
    if kind in _OTHER_REPOS:
        raise SourceError(f"{short(text)} is one of the hub's {kind}, not a model", hint=_A_MODEL)
    found = form.fullmatch(path)
    if found is None or not is_repo_id(found[1]):
        raise SourceError(f"{short(text)} is not the address of a model", hint=_A_MODEL)
    repo_id, view, at_revision, inside = found.groups(default="")
    if not at_revision:
        return _locate(HubId(repo_id=repo_id), unquote(inside), is_file=False)
    # A revision such as refs/pr/3 has slashes of its own.
    special = _SPECIAL_REVISION.fullmatch(at_revision)
    revision, _, inside = (special[1], "", special[2] or "") if special else at_revision.partition("/")
    if not _is_revision(unquote(revision)):
        raise SourceError(f"invalid revision in {short(text)}", hint="give a branch, a tag or a commit: hf://org/name@main/unet")
    return _locate(HubId(repo_id=repo_id, revision=unquote(revision)), unquote(inside), is_file=view not in ("", "tree"))


def _locate(repository: HubId, path: str, *, is_file: bool) -> HubId:
    """Return what a path in a repository means; a pipeline's index, or no path, leaves the search open."""
    path = clean_folder(path)
    folder, name = dirname(path), basename(path)
    if is_weights(name):
        return replace(repository, file=path)
    if (error := unread_weights(name, what=short(path), hint="give the .safetensors of the same repository")) is not None:
        raise error
    if name == "config.json":
        return replace(repository, folder=folder)
    if name != "model_index.json" and path and (is_file or is_file_name(name)):
        raise SourceError(
            f"{short(path)} is not a config.json or a .safetensors file",
            hint="give the page of the model, its unet folder, its config.json or its .safetensors file",
        )
    return replace(repository, folder=(folder if name == "model_index.json" else path) or None)


def _is_revision(revision: str) -> bool:
    return _REVISION.fullmatch(revision) is not None and ".." not in revision
