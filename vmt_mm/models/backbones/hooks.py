"""What a method does in a block, for tasks whose images are in one batch.

Letters: B images, L tokens, d channels, T tasks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor

from vmt_mm.peft import Branch

Result = TypeVar("Result", Tensor, Branch)


class Hooks:
    """Calls what a method does in a block: at once, or once a task on that task's images.

    Args:
        of_tasks: for every task, what calls a function with the task's parameters in place; none
            where all images have the same.
    """

    def __init__(self, of_tasks: Sequence[Callable[..., Any]] = ()) -> None:
        self._of_tasks = of_tasks

    def __call__(self, hook: Callable[[Tensor], Result], x: Tensor) -> Result:
        """``hook(x)``; of a :class:`Branch`, each tensor is put together again.

        Args:
            hook: a function of the method, (B, L, d) to a tensor of that size or a branch of them.
            x: (B, L, d), or (T B, L, d).
        """
        if not self._of_tasks:
            return hook(x)
        parts = x.chunk(len(self._of_tasks))
        results = [call(hook, part) for call, part in zip(self._of_tasks, parts, strict=True)]
        if isinstance(results[0], Branch):
            return _join_branches(results)
        if all(result is part for result, part in zip(results, parts, strict=True)):
            return x  # the method does nothing here
        return torch.cat(results)


def _join_branches(branches: Sequence[Branch]) -> Branch:
    """Branches of tasks as one."""
    gain = branches[0].gain
    same = all(not isinstance(b.gain, Tensor) and b.gain == gain for b in branches)
    streams = [b.stream if same or b.stream is None else b.gain * b.stream for b in branches]
    kept = [b.for_decoders for b in branches]
    joined = (None if xs[0] is None else torch.cat(xs) for xs in (streams, kept))
    return Branch(*joined, gain=gain if same else 1.0)
