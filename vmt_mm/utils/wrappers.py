"""Models inside wrappers."""

from torch import nn


def unwrap(model: nn.Module) -> nn.Module:
    """Return the model within all wrappers (distributed, compiling, augmenting), or itself."""
    while inner := [name for name in ("module", "_orig_mod") if hasattr(model, name)]:
        model = getattr(model, inner[0])
    return model
