"""What one process does for all."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from mmengine.dist import broadcast_object_list, is_main_process

from vmt_mm.errors import InputError

Result = TypeVar("Result")


def on_main(work: Callable[[], Result]) -> Result:
    """Let the first process do ``work``; give its result, or its InputError, to all of them.

    So an error on that process alone ends the others too, where they would wait for it.
    """
    outcome: list = [None, None]
    if is_main_process():
        try:
            outcome[0] = work()
        except InputError as error:
            outcome[1] = str(error)
    broadcast_object_list(outcome)
    if outcome[1] is not None:
        raise InputError(outcome[1])
    return outcome[0]
