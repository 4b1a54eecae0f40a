"""Modules inside wrappers; their mode and the random generators, put back at the end."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from torch import nn


def unwrap(model: nn.Module) -> nn.Module:
    """Return the model inside all wrappers (distributed, compiled, augmenting), or itself."""
    while inner := [name for name in ("module", "_orig_mod") if hasattr(model, name)]:
        model = getattr(model, inner[0])
    return model


@contextmanager
def eval_mode(module: nn.Module) -> Iterator[None]:
    """Put a module and its children into eval mode, and each back into its mode at the end."""
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
    """Put Python's, NumPy's and PyTorch's generators back at the end, also of ``devices``."""
    python, numpy = random.getstate(), np.random.get_state()
    kind = devices[0].type if devices else "cuda"
    with torch.random.fork_rng(list(devices), device_type=kind):
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)
