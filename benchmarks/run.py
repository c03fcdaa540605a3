"""Measure unetinspect beside what it is compared with, and write the results page: see README.md in this folder."""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

from page import write_section
from sections import SECTIONS, Setting

ROOT = Path(__file__).resolve().parent.parent


def main() -> None:
    """Run one comparison or all, print the tables, and write them into the page where that is asked for."""
    options = _parser().parse_args()
    names = list(SECTIONS) if options.what == "all" else [options.what]
    with tempfile.TemporaryDirectory() as folder:
        setting = Setting(options.python, options.peers_python, options.rounds, options.limit, Path(folder))
        for name in names:
            print(f"{name}:", file=sys.stderr, flush=True)
            began = time.perf_counter()
            text = SECTIONS[name](setting)
            print(f"{name} took {time.perf_counter() - began:.0f} s", file=sys.stderr, flush=True)
            print(f"## {name}\n\n{text}\n", flush=True)
            if options.write:
                write_section(options.write, name, text)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=[*SECTIONS, "all"], help="what to compare")
    parser.add_argument("--rounds", type=int, default=5, help="rounds; growth and peers: half as many (default: %(default)s)")
    parser.add_argument("--write", type=Path, metavar="PAGE", help="put the tables into this page, between its marks")
    parser.add_argument("--python", type=Path, default=ROOT / ".venv/bin/python", help="has unetinspect and no other tool")
    parser.add_argument("--peers-python", type=Path, default=ROOT / ".venv-benchmark/bin/python", help="has the other tools too")
    parser.add_argument("--limit", type=float, default=300, metavar="SECONDS", help="for one run of another tool (default: %(default)s)")
    return parser


if __name__ == "__main__":
    main()
