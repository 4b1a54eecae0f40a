"""Models inside distributed wrappers."""

from torch import nn


def unwrap(model: nn.Module) -> nn.Module:
    """Return the model that a distributed wrapper holds, or the model itself."""
    return getattr(model, "module", model)
