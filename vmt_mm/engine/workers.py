"""Processes that load data."""

from __future__ import annotations

import signal
from collections.abc import Callable
from types import FrameType

#: A worker that was told to end does so by itself after so many seconds.
_LINGER_S = 60


def start_worker(then: Callable[[int], None] | None, worker_id: int) -> None:
    """Let a worker go on after a signal that its training answers with a last step.

    Terminals and schedulers send SIGINT and SIGTERM to every process of a run. Workers that died
    of it would take the training down before it could write its checkpoint; they end with it.

    Args:
        then: the ``worker_init_fn`` that the data loader had.
        worker_id: the worker's number.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _linger)
    if then is not None:
        then(worker_id)


def _linger(number: int, frame: FrameType | None) -> None:
    signal.alarm(_LINGER_S)
