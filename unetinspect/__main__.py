"""`python -m unetinspect`, and the console script: where Ctrl-C ends the program with a word, even while it still loads."""

from __future__ import annotations

import sys

INTERRUPTED = 130


def main() -> int:
    """Run the program and return its exit code."""
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
