"""Write `unetinspect/explain/atlas.jsonl`: `python -m tests.atlas`, about two minutes."""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path

import unetinspect.explain
from tests.atlas.provoke import merged, provoke, without_provoked
from tests.atlas.raised import raised_rows
from tests.atlas.rows import write_rows

ATLAS = Path(unetinspect.explain.__file__).with_name("atlas.jsonl")

_LOADING = re.compile(r"in loading state_dict|[Ss]ome weights of|keys are missing|expected shape|has shape")


def main() -> None:
    """Provoke errors, and write them as rows and as what a user would paste."""
    parser = argparse.ArgumentParser(prog="python -m tests.atlas", description=__doc__)
    parser.add_argument("--observations", type=Path, metavar="FILE", help="write each error too, with its traceback and its true cause")
    parser.add_argument(
        "--sizes", choices=("prime", "other"), default="prime", help="other: the sizes of kinds.yaml, and no rows: to judge explanations by"
    )
    options = parser.parse_args()
    provoked = list(provoke(primes=options.sizes == "prime"))
    if options.observations is not None:
        lines = ({"base": one.base, "message": one.message, "traceback": one.traceback, **one.row} for one in provoked)
        options.observations.write_text("".join(f"{json.dumps(line)}\n" for line in lines), encoding="utf-8")
    print(f"{len(provoked)} errors provoked")
    if options.sizes == "prime":
        rows = merged(one.row for one in provoked)
        # Files that do not fit are explained by the tensors that they name, not by the atlas.
        raised = [row for row in without_provoked(raised_rows(), rows) if not _LOADING.search(row["text"])]
        write_rows(ATLAS, [*rows, *raised])
        print(f"{len(rows)} rows of them, and {len(raised)} texts that were not provoked")


if __name__ == "__main__":
    main()
