"""Multiprocessing: pools, loader workers, and work of the main process for all others."""

import multiprocessing
import multiprocessing.connection
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any, TypeVar

import cv2

from vmt_mm.errors import InputError

Job = TypeVar("Job")
Result = TypeVar("Result")


def on_main(work: Callable[[], Result]) -> Result:
    """Run ``work`` on the main process; return its result, or raise its InputError, on all."""
    from mmengine.dist import broadcast_object_list, is_main_process  # pool workers avoid torch

    outcome: list[Any] = [None]
    if is_main_process():
        try:
            outcome[0] = work()
        except InputError as error:
            outcome[0] = InputError(str(error))
    broadcast_object_list(outcome)
    if isinstance(outcome[0], InputError):
        raise outcome[0]
    return outcome[0]


def run_parallel(
    function: Callable[[Job], Result], jobs: Sequence[Job], workers: int
) -> Iterator[Result]:
    """Yield ``function(job)`` for every job, in order; the first error stops all.

    Both must be picklable. One worker is this process; with more, the calling script must guard its
    entry point, since each worker imports it. Raises InputError if a worker was killed.
    """
    # daemonic processes cannot have children
    if workers <= 1 or len(jobs) <= 1 or multiprocessing.current_process().daemon:
        yield from map(function, jobs)
        return
    workers = min(workers, len(jobs))
    context = multiprocessing.get_context("spawn")  # forking a process with threads may deadlock
    with ProcessPoolExecutor(workers, context, _start_pool_worker) as pool:
        try:
            yield from pool.map(function, jobs, chunksize=4)
        except BrokenProcessPool:
            problem = f"one of {workers} worker processes was killed, perhaps for lack of memory"
            raise InputError(f"{problem}; use fewer workers") from None
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _start_pool_worker() -> None:
    """Use one thread, leave Ctrl-C to the parent, and exit with the parent."""
    cv2.setNumThreads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    multiprocessing.connection.wait([parent.sentinel])
    os._exit(1)


def start_worker(then: Callable[[int], None] | None, worker_id: int) -> None:
    """Make a loader worker ignore the signals that its parent handles; then call ``then``."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "sigwaitinfo"):  # elsewhere than on Linux, SIGTERM ends a worker
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=_obey_parent, args=(os.getppid(),), daemon=True).start()
    if then is not None:
        then(worker_id)


def _obey_parent(parent: int) -> None:
    """Exit on SIGTERM from the training process; ignore SIGTERM from other processes."""
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != parent:
        pass
    os._exit(0)
