"""Work of many equal parts, on several processes."""

from __future__ import annotations

import multiprocessing
import multiprocessing.connection
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import TypeVar

import cv2

from vmt_mm.errors import InputError

Job = TypeVar("Job")
Result = TypeVar("Result")

# Jobs handed to a worker at a time: enough to hide the hand-over, few enough for a smooth bar.
_CHUNK = 4


def run_parallel(
    function: Callable[[Job], Result], jobs: Sequence[Job], workers: int
) -> Iterator[Result]:
    """Yield ``function(job)`` for every job, in their order; the first error ends all.

    With more than one worker the calling script must guard its entry point with
    ``if __name__ == "__main__"``, as every worker imports it again.

    Args:
        function: of a module's top level, so that workers find it.
        jobs: what can be sent to another process.
        workers: how many processes; with 1 the work is done here.

    Raises:
        InputError: if a worker was killed.
    """
    # A daemonic process may not have children of its own, so it does the work itself.
    if workers <= 1 or len(jobs) <= 1 or multiprocessing.current_process().daemon:
        yield from map(function, jobs)
        return
    # Forking a process that runs threads of OpenMP or torch can deadlock; spawning cannot.
    context = multiprocessing.get_context("spawn")
    workers = min(workers, len(jobs))
    with ProcessPoolExecutor(workers, mp_context=context, initializer=_prepare_worker) as pool:
        try:
            yield from pool.map(function, jobs, chunksize=_CHUNK)
        except BrokenProcessPool:
            raise InputError(
                f"one of {workers} worker processes was killed, for want of memory perhaps; use "
                "fewer workers"
            ) from None
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _prepare_worker() -> None:
    # The processes themselves use the cores; more threads in each would only get in the way.
    cv2.setNumThreads(1)
    # A terminal sends Ctrl-C to every process: what a worker has begun it ends, and the parent says
    # when to stop. If the parent was killed nobody says so, and workers would wait for ever.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    multiprocessing.connection.wait([parent.sentinel])
    os._exit(1)
