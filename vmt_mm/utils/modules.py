"""Unwrap modules; set their mode and random generators temporarily."""

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from torch import nn


def unwrap(model: nn.Module) -> nn.Module:
    """Return the model inside all wrappers (distributed, compiled, TTA), or the model itself."""
    while inner := [name for name in ("module", "_orig_mod") if hasattr(model, name)]:
        model = getattr(model, inner[0])
    return model


@contextmanager
def eval_mode(module: nn.Module) -> Iterator[None]:
    """Put a module and its children into eval mode, and restore their modes at the end."""
    training = [part for part in module.modules() if part.training]
    for part in training:
        part.training = False
    try:
        yield
    finally:
        for part in training:
            part.training = True


@contextmanager
def restored_generators(devices: Sequence[torch.device] = ()) -> Iterator[None]:
    """Restore the random state of Python, NumPy, PyTorch and ``devices`` at the end."""
    python, numpy = random.getstate(), np.random.get_state()
    kind = devices[0].type if devices else "cuda"
    with torch.random.fork_rng(list(devices), device_type=kind):
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)
