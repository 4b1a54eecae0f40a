"""Several adapters on one frozen backbone, of which one is in use."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from vmt_mm.checkpoints.frozen import keys_left_out
from vmt_mm.errors import InputError
from vmt_mm.loading.adapters import load_adapter


class AdapterSwitch:
    """Adapters of different methods and tasks that share the frozen backbone's memory.

    Each adapter is a model of its own, whose frozen parameters are the same tensors as the others';
    so switching costs nothing. The models are for prediction, not for training.

    Args:
        pretrained: file of the frozen backbone; None takes the one that each adapter names.
        device: of all models.

    Attributes:
        models: name -> model in eval mode, as :func:`load_adapter` gives it.
        current: name of the adapter in use; None before the first.

    Examples:
        >>> switch = AdapterSwitch()                                  # doctest: +SKIP
        >>> switch.add("rooms", "rooms.safetensors")                  # doctest: +SKIP
        >>> switch.add("streets", "streets.safetensors")              # doctest: +SKIP
        >>> samples = switch.use("rooms")(images, mode="predict")     # doctest: +SKIP
    """

    def __init__(self, pretrained: str | None = None, device: str = "cpu") -> None:
        self.pretrained, self.device = pretrained, device
        self.models: dict[str, Any] = {}
        self.current: str | None = None
        self._frozen: dict[str, nn.Parameter] = {}

    @property
    def model(self) -> Any:
        """The model in use."""
        if self.current is None:
            raise InputError("no adapter is in use; add one first")
        return self.models[self.current]

    def use(self, name: str) -> Any:
        """Switch to an adapter; return its model."""
        if name not in self.models:
            raise InputError(f"no adapter {name!r}; there are {list(self.models)}")
        self.current = name
        return self.model

    def add(self, name: str, path: str | Path) -> Any:
        """Load an adapter file, under a new name or in place of another one, and switch to it.

        Raises:
            InputError: if it cannot be loaded, or was trained on another backbone than the others;
                what was in use stays in use.
        """
        model = load_adapter(path, self.pretrained, self.device)
        own = {key: model.get_parameter(key) for key in keys_left_out(model)}
        if any(not torch.equal(self._frozen.get(key, own[key]), own[key]) for key in own):
            raise InputError(
                f"{path} was trained on another frozen backbone, "
                f"{model.backbone.pretrained_path!r}, than the adapters before; use another "
                "AdapterSwitch"
            )
        self._frozen = {**own, **self._frozen}
        for key in own:
            owner, _, leaf = key.rpartition(".")
            setattr(model.get_submodule(owner), leaf, self._frozen[key])
        self.models[name] = model
        return self.use(name)

    def remove(self, name: str) -> None:
        """Forget an adapter that is not in use."""
        rest = [other for other in self.models if other != self.current]
        if name not in rest:
            raise InputError(f"no adapter {name!r} that is not in use; there are {rest}")
        del self.models[name]
