"""Measure unetinspect and what it is compared with, and write the results page: see README.md in this folder."""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

from page import environment, write_section
from sections import SECTIONS, Setting

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("unetinspect", "torch", "diffusers", "typer", "rich", "transformers", "accelerate", "peft", "hf-mem", "torchinfo", "torchview")


def main() -> int:
    """Measure sections, print their tables, and write them to the page; returns 1 if one failed."""
    options = _parser().parse_args()
    failed = False
    with tempfile.TemporaryDirectory() as folder:
        setting = Setting(options.python, options.other_python, options.rounds, Path(folder))
        for name in options.sections or SECTIONS:
            print(f"{name}:", file=sys.stderr, flush=True)
            began = time.perf_counter()
            try:
                text = SECTIONS[name](setting)
            except (RuntimeError, OSError) as error:  # the other sections are still measured
                print(f"{name} failed: {error}", file=sys.stderr, flush=True)
                failed = True
                continue
            print(f"{name} took {time.perf_counter() - began:.0f} s", file=sys.stderr, flush=True)
            python = setting.other_python if name in ("crowded", "field") else setting.python
            text = f"{text}\n\n{environment(python, PACKAGES)}"
            print(f"## {name}\n\n{text}\n", flush=True)
            if options.write:
                write_section(options.write, name, text)
    return int(failed)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("sections", nargs="*", choices=[*SECTIONS, []], metavar="SECTION", help=f"{', '.join(SECTIONS)}; default: all")
    parser.add_argument("--rounds", type=int, default=5, help="rounds; fewer where a round takes minutes (default: %(default)s)")
    parser.add_argument("--write", type=Path, metavar="PAGE", help="write the tables to this page, between its marks")
    parser.add_argument("--python", type=Path, default=ROOT / ".venv/bin/python", help="has unetinspect, and no transformers")
    parser.add_argument(
        "--other-python", type=Path, default=ROOT / ".venv-benchmark/bin/python", help="has transformers and the other tools"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
