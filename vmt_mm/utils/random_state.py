"""The random generators of a process."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch


@contextmanager
def restored_generators(devices: Sequence[torch.device] = ()) -> Iterator[None]:
    """Put Python's, NumPy's and PyTorch's generators back at the end.

    Args:
        devices: accelerators of one kind whose generators are put back besides the CPU's.
    """
    python, numpy = random.getstate(), np.random.get_state()
    kind = devices[0].type if devices else "cuda"
    with torch.random.fork_rng(list(devices), device_type=kind):
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)
