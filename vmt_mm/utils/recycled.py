"""Memory of large results that is used again once nothing refers to them, on CPUs."""

from __future__ import annotations

import weakref
from collections import deque

import numpy as np
import torch
from torch import Tensor

#: Bytes; glibc itself gives smaller pieces of memory again that the process already has.
_MINIMUM = 1 << 25
#: A call of an encoder has at most this many results of that size.
_KEPT = 4


class RecycledMemory:
    """Gives tensors, and their memory again after they are gone.

    What is returned to the system it clears at the next use, page by page. For results of hundreds
    of megabytes that takes several times as long as to compute them.
    """

    def __init__(self) -> None:
        self._free: deque[np.ndarray] = deque(maxlen=_KEPT)  # the oldest makes room

    def empty(self, *shape: int, like: Tensor, dtype: torch.dtype) -> Tensor:
        """A tensor with any values, contiguous, on the device of ``like``.

        Its memory is free again when no tensor refers to it, views included.
        """
        size = torch.Size(shape).numel() * dtype.itemsize
        if not like.is_cpu or size < _MINIMUM:
            return like.new_empty(shape, dtype=dtype)
        memory = self._take(size)
        lent = memory.view()
        weakref.finalize(lent, self._free.append, memory).atexit = False
        return torch.from_numpy(lent).view(dtype).view(shape)

    def _take(self, size: int) -> np.ndarray:
        for _ in range(len(self._free)):
            try:
                memory = self._free.popleft()  # at once: no other thread gets the same
            except IndexError:
                break
            if memory.nbytes == size:
                return memory
            self._free.append(memory)
        self._free.clear()  # other sizes than before are asked for now
        return np.empty(size, np.uint8)
