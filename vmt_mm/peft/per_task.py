"""The paper's "Multiple" variant of a method: one copy of its trainable parameters per task."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from vmt_mm.errors import InputError
from vmt_mm.peft.method import Backbone, PEFTMethod, build_method
from vmt_mm.peft.parameter_swap import call_with, find_parameter, unregister
from vmt_mm.registry import PEFT_METHODS


@PEFT_METHODS.register_module()
class PerTask(PEFTMethod):
    """Train one copy of a method's parameters per task; the backbone runs once per task.

    ``method`` is the config of a method whose features all tasks share; others raise InputError.
    Config: ``peft=dict(type="PerTask", method=dict(type="LoRA", rank=4))``. Keys of the copies are
    ``copies.<task>.<key>``, with ``__`` for each dot in the key.
    """

    per_task_forward = True

    def __init__(self, method: dict) -> None:
        super().__init__()
        self.method = own = build_method(method)
        self._name = type(own).__name__
        if own.per_task_forward or type(own).task_features is not PEFTMethod.task_features:
            reason = f"{self._name} already has separate features per task"
            raise InputError(f"PerTask: {reason}; use it without PerTask")
        self.counts_output_norms = own.counts_output_norms
        # the wrapped method's hooks run with the copies of the task in place
        self.after_attn, self.after_mlp = own.after_attn, own.after_mlp
        self.parallel_to_mlp = own.parallel_to_mlp

    def attach(self, backbone: Backbone) -> None:
        """Attach the method, then copy its trainable parameters once per task."""
        before = {name for name, _ in backbone.named_parameters()}
        self.method.attach(backbone)
        trained = {n: p for n, p in backbone.named_parameters() if p.requires_grad}
        if not trained:
            raise InputError(f"PerTask: {self._name} has no trainable parameters to copy")
        self._keys = {name: name.replace(".", "__") for name in trained}
        self.copies: Any = nn.ModuleDict()
        for task in backbone.task_names:
            copies = {self._keys[n]: nn.Parameter(p.detach().clone()) for n, p in trained.items()}
            self.copies[task] = nn.ParameterDict(copies)
        for parameter in trained.values():
            parameter.requires_grad_(False)
        unregister(backbone, trained.keys() - before)

    def reset_from_pretrained(self, backbone: Backbone) -> None:
        """Set each copy to the pretrained values, or to the initial values of the method."""
        for task in self.copies:
            copies = self.parameters_for(task)
            with torch.no_grad():
                for name, copy in copies.items():
                    pretrained = find_parameter(backbone, name)
                    if pretrained is not None:
                        copy.copy_(pretrained)
            call_with(backbone, copies, self.method.reset_from_pretrained, backbone)

    def parameters_for(self, task: str) -> dict[str, Tensor]:
        """Return the copies of a task."""
        return {name: self.copies[task][key] for name, key in self._keys.items()}

    def block_of(self, key: str) -> int | None:
        """Return the block index that the wrapped method gives."""
        return self.method.block_of(key.removeprefix("method."))

    def original_name(self, key: str) -> str:
        """Return the name of the parameter that ``key`` is a copy of; ``key`` if none."""
        originals = {copy: name for name, copy in self._keys.items()}
        return originals.get(key.rpartition(".")[2], key) if key.startswith("copies.") else key
