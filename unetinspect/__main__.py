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
        code = _run()
    except KeyboardInterrupt:
        code = interrupted()
    from unetinspect.streams import die_if_ended

    die_if_ended()
    return code


def _run() -> int:
    from unetinspect import streams
    from unetinspect.errors import UsageError

    streams.ready()
    with streams.ending_cleanly():
        from unetinspect.cli.main import main as run

        code = run()
        try:
            streams.finish()
        except UsageError as error:
            streams.print_error(error.message, error.hint)
            return error.exit_code
    return code


def interrupted() -> int:
    """Say that the user ended the program, and return the exit code for that."""
    from unetinspect.streams import print_aside

    print_aside("interrupted")
    return INTERRUPTED


if __name__ == "__main__":
    sys.exit(main())
