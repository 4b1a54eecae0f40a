"""The paper's "Multiple" form of a method: a copy of its trainable parameters for every task."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vmt_mm.errors import InputError
from vmt_mm.peft.method import Branch, Encoder, PEFTMethod, build_method
from vmt_mm.peft.parameter_swap import (
    ParameterSwap,
    find_parameter,
    mark_swapped,
    unregister,
)
from vmt_mm.registry import PEFT_METHODS


@PEFT_METHODS.register_module()
class PerTask(PEFTMethod):
    """Runs the encoder once a task, each time with that task's copy of a method's parameters.

    What the encoder had before the method came stays as it is, frozen; the places of what the
    method created are empty between passes. The copies' keys are ``copies.<task>.<key>``, with
    ``__`` for the dots of the key, which PyTorch allows in no name.

    Args:
        method: config of a method that serves all tasks in one pass.

    Raises:
        InputError: if that method gives tasks features of their own by itself, or trains nothing.
    """

    passes = "per_task"

    def __init__(self, method: dict) -> None:
        super().__init__()
        self.method = build_method(method)
        self._name = type(self.method).__name__
        if (
            self.method.passes != "shared"
            or type(self.method).for_decoders is not PEFTMethod.for_decoders
        ):
            raise InputError(
                f"PerTask: {self._name} gives each task features of its own; use it without PerTask"
            )
        self.counts_output_norms = self.method.counts_output_norms

    def attach(self, encoder: Encoder) -> None:
        """Attach the method, then copy what it trains once a task."""
        before = {name for name, _ in encoder.named_parameters()}
        self.method.attach(encoder)
        trained = {n: p for n, p in encoder.named_parameters() if p.requires_grad}
        if not trained:
            raise InputError(f"PerTask: {self._name} trains nothing in the encoder to copy")
        self._keys = {name: name.replace(".", "__") for name in trained}
        self.copies = nn.ModuleDict(
            {
                task: nn.ParameterDict(
                    {
                        self._keys[name]: nn.Parameter(parameter.detach().clone())
                        for name, parameter in trained.items()
                    }
                )
                for task in encoder.task_names
            }
        )
        for parameter in trained.values():
            parameter.requires_grad_(False)
        mark_swapped(encoder, trained)
        unregister(encoder, trained.keys() - before)

    def reset_from_pretrained(self, encoder: Encoder) -> None:
        """Each copy starts as the method does: at pretrained values, or at its initial ones."""
        substitution = ParameterSwap(encoder)
        for task in self.copies:
            copies = self.parameters_for(task)
            with torch.no_grad():
                for name, copy in copies.items():
                    pretrained = find_parameter(encoder, name)
                    if pretrained is not None:
                        copy.copy_(pretrained)
            substitution.run(copies, self.method.reset_from_pretrained, encoder)

    def parameters_for(self, task: str) -> dict[str, Tensor]:
        """The task's copies."""
        return {name: self.copies[task][key] for name, key in self._keys.items()}

    def block_of(self, key: str) -> int | None:
        """As the method."""
        return self.method.block_of(key.removeprefix("method."))

    def original_name(self, key: str) -> str:
        """A copy stands for what it is a copy of."""
        originals = {copy: name for name, copy in self._keys.items()}
        return originals.get(key.rpartition(".")[2], key) if key.startswith("copies.") else key

    def parallel_to_mlp(self, index: int, y: Tensor) -> Branch:
        """As the method."""
        return self.method.parallel_to_mlp(index, y)

    def after_attn(self, index: int, out: Tensor) -> Tensor:
        """As the method."""
        return self.method.after_attn(index, out)

    def after_mlp(self, index: int, out: Tensor) -> Tensor:
        """As the method."""
        return self.method.after_mlp(index, out)
