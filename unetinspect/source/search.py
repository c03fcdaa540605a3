"""Every UNet config in a folder: a folder of training runs, the hub's cache."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

from unetinspect.errors import SourceError, UnetInspectError
from unetinspect.source.base import LoadedModel
from unetinspect.source.local import read_path
from unetinspect.source.parse import MAX_BYTES
from unetinspect.streams import reason
from unetinspect.unets import class_like, supported_classes
from unetinspect.units import plural

_CONFIG = re.compile(r".*\.(json|ya?ml)", re.IGNORECASE)
_CLASS_NAME = re.compile(rb"""_class_name["']?\s*:\s*["']?(\w+)""")
_MAGIC = re.compile(r"[*?\[]")
# A folder of runs or of the hub's cache has less of each: beyond, it is a whole disk that was named.
MAX_DEPTH = 12
MAX_FILES = 200_000


def find_models(place: str, note: Callable[[str], None]) -> list[tuple[str, LoadedModel]]:
    """Read every UNet config under a folder, or under whatever a glob matches; returns each with its path, sorted by it.

    A config is a JSON or YAML file that names a class that can be traced; other files are passed over. Links to folders
    and hidden folders are not followed, nor are folders more than `MAX_DEPTH` levels down. `note` is told of what cannot be read.

    Raises:
        SourceError: There is no such folder, or no UNet config in it.
    """
    try:
        paths = sorted(set(_candidates(place, note)))
    except (OSError, ValueError) as error:  # a glob such as "a**b", or with a name that is too long to be one
        raise SourceError(f"cannot search {place}: {error}", hint="give a folder, or a glob in quotes: --from 'runs/*/unet'") from None
    found = []
    for path in paths:
        try:
            names = _class_names(path)
            if any(name in supported_classes() for name in names):
                model = read_path(path)
                found += [(str(path), model)] if model.config.get("_class_name") in supported_classes() else []
            elif misspelled := [f"{name}: {like}" for name in names if (like := class_like(name)).endswith("?")]:
                note(f"{path} names no UNet class: {misspelled[0]}")
        except OSError as error:
            note(f"{path} cannot be read: {reason(error)}")
        except UnetInspectError as error:
            note(error.message)
    if not found:
        raise SourceError(f"found no UNet config in {place}", hint="a config is a JSON or YAML file with the _class_name of a UNet")
    return found


def _candidates(place: str, note: Callable[[str], None]) -> Iterator[Path]:
    if not place:  # which would be the folder that the program runs in: a variable of the shell that is not set
        raise SourceError("--from needs a folder", hint="for the current folder: --from .")
    whole = Path(os.path.expanduser(place))  # noqa: PTH111  Path.expanduser raises where there is no home
    if os.path.exists(whole):  # noqa: PTH110  Path.exists raises for a text that is too long to be a name
        matches = iter([whole])
    elif _MAGIC.search(place):
        fixed = next(index for index, part in enumerate(whole.parts) if _MAGIC.search(part))
        matches = Path(*whole.parts[:fixed]).glob(str(Path(*whole.parts[fixed:])))  # `**` follows no links
    else:
        raise SourceError(f"there is no file or folder {place}", hint="give a folder, or a glob in quotes: --from 'runs/*/unet'")
    for path in islice(matches, MAX_FILES):
        if path.is_dir():
            yield from _in_folder(path, note)
        elif path.is_file():
            yield path


def _in_folder(top: Path, note: Callable[[str], None]) -> Iterator[Path]:
    seen, too_deep = 0, []
    for folder, folders, files in os.walk(top, onerror=lambda error: note(f"{error.filename} cannot be read: {reason(error)}")):
        folders[:] = [name for name in folders if not name.startswith(".")]
        if len(Path(folder).parts) - len(top.parts) == MAX_DEPTH and folders:
            too_deep.append(folder)
            folders.clear()
        seen += len(files)
        if seen > MAX_FILES:
            note(f"{top} has more than {MAX_FILES:,} files: the rest was not searched")
            break
        paths = (Path(folder, name) for name in files if _CONFIG.fullmatch(name))
        yield from (path for path in paths if path.is_file())  # no pipe, which would be waited for
    if too_deep:
        where = f"in {plural(len(too_deep), 'folder')}, such as {too_deep[0]}"
        note(f"not searched: folders deeper than {plural(MAX_DEPTH, 'level')} ({where})")


def _class_names(path: Path) -> list[str]:
    """List the classes that a file names: most configs are of other models, and need not be parsed."""
    with path.open("rb") as file:
        return [name.decode() for name in dict.fromkeys(_CLASS_NAME.findall(file.read(MAX_BYTES)))]
