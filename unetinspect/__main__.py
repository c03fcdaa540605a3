"""`python -m unetinspect`, and the console script: where Ctrl-C ends the program with a word, even while it still loads."""

from __future__ import annotations

import gc
import sys

INTERRUPTED = 130


def main() -> int:
    """Run the program and return its exit code."""
    # torch makes millions of objects that stay; looking through them for garbage takes a tenth of a trace's time.
    gc.set_threshold(100_000, 50, 100)
    try:
        from unetinspect.cli.main import main as run

        return run()
    except KeyboardInterrupt:
        return interrupted()


def interrupted() -> int:
    """Say that the user ended the program, and return the exit code for that."""
    print("interrupted", file=sys.stderr)
    return INTERRUPTED


if __name__ == "__main__":
    sys.exit(main())
