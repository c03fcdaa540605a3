"""Records of many models: what is not in the cache is traced by several processes, where that is faster."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from itertools import repeat
from multiprocessing import active_children, get_context

from unetinspect.deferred_imports import defer_imports
from unetinspect.errors import UnetInspectError
from unetinspect.record import Trace
from unetinspect.run.cache import RecordCache, Recorder
from unetinspect.source.loaded import LoadedModel
from unetinspect.unets.request import Request, make_request

# A process imports torch and diffusers first, in the time of a few passes; each takes some hundred MB.
_LEAST_FOR_EACH, _MOST_PROCESSES = 10, 8


def record_each(
    models: Sequence[LoadedModel], cache: RecordCache | None, *, say: Callable[[str], None]
) -> Iterator[Trace | UnetInspectError]:
    """Yield the record of each model's pass at its own size on meta, in their order, or why there is none.

    `say` is called with each step as it begins.
    """
    request = make_request(device="meta")
    recorders = [Recorder(cache, model, say=say) for model in models]
    kept = {place: record for place, recorder in enumerate(recorders) if (record := recorder.kept(request)) is not None}
    unknown = [place for place in range(len(models)) if place not in kept]
    if cache is not None:  # one pass for all models with one config; then it is in the cache
        unknown = sorted({repr(models[place].config): place for place in reversed(unknown)}.values())
    traced = _in_processes([models[place] for place in unknown], cache, request)
    for place, recorder in enumerate(recorders):
        say(f"{recorder.model.name}: {place + 1} of {len(models)}")
        if place in kept:
            yield kept[place]
        else:
            found = next(traced, None) if place in unknown else None
            yield _record(recorder, request) if found is None else found


def _in_processes(models: Sequence[LoadedModel], cache: RecordCache | None, request: Request) -> Iterator[Trace | UnetInspectError]:
    """Yield what `_record` returns of each model from other processes; of none, or of fewer, where they do not pay or one dies."""
    processes = min(os.cpu_count() or 1, _MOST_PROCESSES, len(models) // _LEAST_FOR_EACH)
    if processes < 2:
        return
    pool = ProcessPoolExecutor(processes, mp_context=get_context("spawn"), initializer=_begin)
    try:
        yield from pool.map(_record_of, models, repeat(cache), repeat(request))
    except BrokenProcessPool:
        return
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
        for process in active_children():
            process.terminate()


def _begin() -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # on Ctrl-C it dies without a word
    defer_imports()


def _record_of(model: LoadedModel, cache: RecordCache | None, request: Request) -> Trace | UnetInspectError:
    return _record(Recorder(cache, model), request)


def _record(recorder: Recorder, request: Request) -> Trace | UnetInspectError:
    try:
        return recorder.record(request)
    except UnetInspectError as error:
        return UnetInspectError(error.message, hint=error.hint)  # of a class that a process can give to another
