"""Models inside distributed wrappers."""

from torch import nn


def unwrap(model: nn.Module) -> nn.Module:
    """Return the model that distributed or compiling wrappers hold, or the model itself."""
    for name in ("module", "_orig_mod", "module"):  # either may hold the other
        model = getattr(model, name, model)
    return model
