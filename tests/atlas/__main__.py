"""Write `unetinspect/explain/atlas.jsonl`: `python -m tests.atlas`, about two minutes."""

from __future__ import annotations

import argparse
import re
from pathlib import Path

import msgspec

from tests.atlas.provoke import merged, provoke, without_provoked
from tests.atlas.raised import raised_rows
from unetinspect.explain.atlas import ATLAS

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
        options.observations.write_bytes(msgspec.json.Encoder().encode_lines(one._asdict() for one in provoked))
    print(f"{len(provoked)} errors provoked")
    if options.sizes == "prime":
        rows = merged(one.row for one in provoked)
        # Files that do not fit are explained by the tensors that they name, not by the atlas.
        raised = [row for row in without_provoked(raised_rows(), rows) if not _LOADING.search(row.text)]
        # Sorted, so that two runs write the same file.
        ATLAS.write_bytes(b"".join(sorted(msgspec.json.Encoder(order="sorted").encode_lines([*rows, *raised]).splitlines(keepends=True))))
        print(f"{len(rows)} rows of them, and {len(raised)} texts that were not provoked")


if __name__ == "__main__":
    main()
