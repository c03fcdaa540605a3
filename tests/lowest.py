"""Prints, as constraints of pip, the lowest versions that pyproject.toml allows: `make test-lowest` installs them.

torch alone is the one that is installed elsewhere: each of its versions is a gigabyte.
"""

from __future__ import annotations

import tomllib
from pathlib import Path

ROOT = Path(__file__).parent.parent


def main() -> None:
    """Print one line for each dependency."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    lowest = [text.replace(">=", "==") for text in (*project["dependencies"], *project["optional-dependencies"]["pandas"])]
    pinned = [line for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines() if line.startswith("torch==")]
    print(*(line for line in lowest if not line.startswith("torch==")), *pinned, sep="\n")


if __name__ == "__main__":
    main()
