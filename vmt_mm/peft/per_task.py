"""The paper's "Multiple" form of a method: a copy of its trainable parameters for every task."""

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
    """Runs the backbone once per task, with that task's copy of a method's parameters.

    The copies' keys are ``copies.<task>.<key>``, with ``__`` for the dots of the key. ``method`` is
    the config of a method that serves all tasks in one pass, with the same features.
    """

    per_task_forward = True

    def __init__(self, method: dict) -> None:
        super().__init__()
        self.method = own = build_method(method)
        self._name = type(own).__name__
        if own.per_task_forward or type(own).task_features is not PEFTMethod.task_features:
            reason = f"{self._name} gives each task features of its own"
            raise InputError(f"PerTask: {reason}; use it without PerTask")
        self.counts_output_norms = own.counts_output_norms
        # in a block, the method acts with the task's copies in place
        self.after_attn, self.after_mlp = own.after_attn, own.after_mlp
        self.parallel_to_mlp = own.parallel_to_mlp

    def attach(self, backbone: Backbone) -> None:
        """Attach the method, then copy what it trains once per task."""
        before = {name for name, _ in backbone.named_parameters()}
        self.method.attach(backbone)
        trained = {n: p for n, p in backbone.named_parameters() if p.requires_grad}
        if not trained:
            raise InputError(f"PerTask: {self._name} trains nothing in the backbone to copy")
        self._keys = {name: name.replace(".", "__") for name in trained}
        self.copies: Any = nn.ModuleDict()
        for task in backbone.task_names:
            copies = {self._keys[n]: nn.Parameter(p.detach().clone()) for n, p in trained.items()}
            self.copies[task] = nn.ParameterDict(copies)
        for parameter in trained.values():
            parameter.requires_grad_(False)
        unregister(backbone, trained.keys() - before)

    def reset_from_pretrained(self, backbone: Backbone) -> None:
        """Each copy starts as the method does: at pretrained values, or at its initial ones."""
        for task in self.copies:
            copies = self.parameters_for(task)
            with torch.no_grad():
                for name, copy in copies.items():
                    pretrained = find_parameter(backbone, name)
                    if pretrained is not None:
                        copy.copy_(pretrained)
            call_with(backbone, copies, self.method.reset_from_pretrained, backbone)

    def parameters_for(self, task: str) -> dict[str, Tensor]:
        """The task's copies."""
        return {name: self.copies[task][key] for name, key in self._keys.items()}

    def block_of(self, key: str) -> int | None:
        """As the method."""
        return self.method.block_of(key.removeprefix("method."))

    def original_name(self, key: str) -> str:
        """Name of the parameter that ``key`` is a copy of."""
        originals = {copy: name for name, copy in self._keys.items()}
        return originals.get(key.rpartition(".")[2], key) if key.startswith("copies.") else key
