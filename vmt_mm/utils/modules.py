"""Modules inside wrappers, and their mode."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

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
