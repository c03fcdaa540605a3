"""`python -m unetinspect`, and the console script: how the process begins and ends."""

from __future__ import annotations

import atexit
import gc
import os
import sys


def main() -> int:
    """Run the program and end the process with its exit code; under a tracer or a profiler, return the code."""
    # torch makes a million objects that stay: searching them for garbage takes a tenth of a trace's time.
    gc.set_threshold(100_000, 50, 100)
    code = run(defer=True)
    if sys.gettrace() is None and sys.getprofile() is None:
        # Freeing torch's objects one by one takes a sixth of a trace's time; the system frees them at once.
        from contextlib import suppress

        atexit._run_exitfuncs()
        for stream in (sys.stdout, sys.stderr):
            with suppress(Exception):  # none, or closed; whatever failed before has been reported
                stream.flush()
        os._exit(code)
    return code


def run(*, defer: bool = False) -> int:
    """Run the program and return its exit code, on Ctrl-C too; `defer` keeps modules that it does not need out of this process."""
    try:  # around the imports too: Ctrl-C while they load is not a traceback
        from contextlib import suppress

        from unetinspect import streams
        from unetinspect.errors import UsageError

        if defer:
            from unetinspect.deferred_imports import defer_imports

            defer_imports()
        streams.ready()
        with streams.ending_cleanly():
            from unetinspect.cli.main import main as run_command

            code = run_command()
            with suppress(streams.ReaderGoneError):
                try:
                    sys.stdout.flush()
                except UsageError as error:
                    streams.print_error(error.message, error.hint)
                    code = error.exit_code
    except KeyboardInterrupt:
        from unetinspect import streams

        code = streams.interrupted()
    streams.die_if_ended()
    return code


if __name__ == "__main__":
    sys.exit(main())
