"""`python -m unetinspect`, and the console script: how the process begins and ends. Ctrl-C ends it with a word, even while it loads."""

from __future__ import annotations

import atexit
import gc
import os
import sys
from contextlib import suppress


def main() -> int:
    """Run the program and end the process with its exit code; under a tracer or a profiler, return the code."""
    # torch makes a million objects that stay: looking through them for garbage takes a tenth of a trace's time.
    gc.set_threshold(100_000, 50, 100)
    code = run(defer=True)
    if sys.gettrace() is None and sys.getprofile() is None:
        # Freeing what torch made, object by object, takes a sixth of a trace's time, and the system frees it at once.
        atexit._run_exitfuncs()
        for stream in (sys.stdout, sys.stderr):
            with suppress(Exception):  # none, or closed; whatever failed in them before was said before
                stream.flush()
        os._exit(code)
    return code


def run(*, defer: bool = False) -> int:
    """Run the program and return its exit code; with `defer`, what it does not need is kept out of this process."""
    try:
        if defer:
            from unetinspect.deferred_imports import defer_imports

            defer_imports()
        code = _run()
    except KeyboardInterrupt:
        from unetinspect.streams import interrupted

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


if __name__ == "__main__":
    sys.exit(main())
