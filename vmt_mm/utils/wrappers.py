"""Models inside wrappers."""

from torch import nn


def unwrap(model: nn.Module) -> nn.Module:
    """Return the model within all wrappers, distributed or augmenting, or the model itself."""
    while hasattr(model, "module"):
        model = model.module
    return model
