"""Processes that load data."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable


def start_worker(then: Callable[[int], None] | None, worker_id: int) -> None:
    """Let a worker go on after a signal that its training answers with a last step.

    Terminals and schedulers send SIGINT and SIGTERM to every process of a run. Workers that died
    of it would take the training down before it could write its checkpoint. They end with it, and
    when it tells them to.

    Args:
        then: the ``worker_init_fn`` that the data loader had.
        worker_id: the worker's number.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "sigwaitinfo"):  # elsewhere than on Linux SIGTERM still ends a worker
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=_obey_parent, args=(os.getppid(),), daemon=True).start()
    if then is not None:
        then(worker_id)


def _obey_parent(parent: int) -> None:
    """End on SIGTERM from the training, and on no other's."""
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != parent:
        pass
    os._exit(0)
