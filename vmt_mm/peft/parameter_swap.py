"""Run a function of an encoder while other tensors stand in its parameters' places."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from torch import Tensor, nn
from torch.func import functional_call


class ParameterSwap(nn.Module):
    """Calls functions of one encoder under substituted parameters.

    PyTorch's ``functional_call`` substitutes for the call of a module's ``forward``; here that
    calls whatever part of the encoder is wanted. The encoder is no child of this module, so no key
    moves. It changes the encoder while a function runs: callers on several threads need a lock.

    Args:
        encoder: whose parameters are replaced.
    """

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.__dict__["encoder"] = encoder

    def forward(self, function: Callable[..., Any], *args: Any) -> Any:
        """Call the function; for :func:`functional_call`."""
        return function(*args)

    def run(
        self, parameters: Mapping[str, Tensor], function: Callable[..., Any], *args: Any
    ) -> Any:
        """``function(*args)`` with ``parameters`` (key in the encoder -> tensor) in place."""
        if not parameters:
            return function(*args)
        named = {f"encoder.{key}": value for key, value in parameters.items()}
        return functional_call(self, named, (function, *args), tie_weights=False)


def find_parameter(encoder: nn.Module, key: str) -> Tensor | None:
    """The parameter of that key; None where its place is empty.

    Raises:
        KeyError: if the encoder has no such place.
    """
    owner, _, name = key.rpartition(".")
    return encoder.get_submodule(owner)._parameters[name]


def unregister(root: nn.Module, keys: Iterable[str]) -> None:
    """Empty the places of parameters that others take during a pass: not saved, not counted."""
    for key in keys:
        owner, _, name = key.rpartition(".")
        root.get_submodule(owner).register_parameter(name, None)


def mark_swapped(root: nn.Module, keys: Iterable[str]) -> None:
    """Note that what trains takes these places, so that dropout beside them acts in training."""
    for key in keys:
        root.get_submodule(key.rpartition(".")[0]).is_substituted = True


def is_substituted(module: nn.Module) -> bool:
    """Whether a parameter of the module, or of one below it, is replaced during passes."""
    return any(getattr(part, "is_substituted", False) for part in module.modules())
