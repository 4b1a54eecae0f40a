"""LoRA: frozen linear layers plus trained products of two small matrices.

LoRA: Hu et al., ICLR 2022, https://arxiv.org/abs/2106.09685.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vmt_mm.errors import InputError
from vmt_mm.peft.bottleneck import check_positive
from vmt_mm.peft.method import Encoder, PEFTMethod, layer_names
from vmt_mm.registry import PEFT_METHODS

#: Target -> role of its layer, the part of the layer's outputs, and how many parts there are.
_TARGETS = {
    "q": ("qkv", 0, 3),
    "k": ("qkv", 1, 3),
    "v": ("qkv", 2, 3),
    "proj": ("proj", 0, 1),
    "fc1": ("fc1", 0, 1),
    "fc2": ("fc2", 0, 1),
}


class LoRALinear(nn.Linear):
    """W x + b + scale B A x; the layer's own keys stay, ``lora_A`` and ``lora_B`` are added.

    The output is split into equal parts (q, k, v of a fused layer); the chosen ones have a pair of
    factors each.

    Args:
        linear: the layer to take the place of; its parameters are taken over.
        chosen: indices of the parts that train.
        parts: number of parts.
        rank: r.
        scale: factor of B A x.
        dropout: on the input of A.
    """

    def __init__(
        self,
        linear: nn.Linear,
        chosen: Sequence[int],
        parts: int,
        rank: int,
        scale: float,
        dropout: float,
    ) -> None:
        super().__init__(linear.in_features, linear.out_features, device="meta")
        self.weight, self.bias = linear.weight, linear.bias
        self.chosen, self.parts, self.scale, self.dropout = tuple(chosen), parts, scale, dropout
        width = linear.out_features // parts
        self.lora_A = nn.Parameter(torch.empty(len(chosen) * rank, linear.in_features))
        self.lora_B = nn.Parameter(torch.empty(len(chosen) * width, rank))

    def reset(self) -> None:
        """Start at B = 0."""
        nn.init.kaiming_uniform_(self.lora_A, nonlinearity="linear")
        nn.init.zeros_(self.lora_B)

    def forward(self, x: Tensor) -> Tensor:
        """(..., in) -> (..., out)."""
        inner = F.linear(F.dropout(x, self.dropout, self.training), self.lora_A)
        update = F.linear(inner, self._outer())
        return torch.add(super().forward(x), update, alpha=self.scale)

    def _outer(self) -> Tensor:
        """B of all chosen parts as one matrix (out, parts chosen * r), 0 for the others."""
        if self.parts == 1:
            return self.lora_B
        factors = dict(zip(self.chosen, self.lora_B.chunk(len(self.chosen)), strict=True))
        none = self.lora_B.new_zeros(self.out_features // self.parts, 0)
        return torch.block_diag(*(factors.get(part, none) for part in range(self.parts)))


@PEFT_METHODS.register_module()
class LoRA(PEFTMethod):
    """Low-rank updates of chosen linear layers of every block.

    Args:
        rank: r.
        alpha: the update is scaled by alpha / r; None stands for r.
        targets: any of q, k, v, proj, fc1, fc2.
        dropout: on the input of A.
        train_norm: unfreeze the norm before the attention, too.

    Raises:
        InputError: if ``rank`` is not positive, a target unknown, or the dropout out of range.
    """

    def __init__(
        self,
        rank: int = 4,
        alpha: float | None = None,
        targets: Sequence[str] = ("q", "v"),
        dropout: float = 0.0,
        train_norm: bool = False,
    ) -> None:
        super().__init__()
        check_positive("LoRA", "rank", rank)
        several = isinstance(targets, (list, tuple)) and len(targets) > 0
        if not several or not set(targets) <= set(_TARGETS) or len(set(targets)) < len(targets):
            raise InputError(
                f"LoRA: `targets` must be a list of some of {list(_TARGETS)}, got {targets!r}"
            )
        if not 0 <= dropout < 1:
            raise InputError(f"LoRA: `dropout` must be in 0..1, below 1, got {dropout}")
        self.rank = rank
        self.scale = 1.0 if alpha is None else alpha / rank
        self.targets = sorted(targets, key=list(_TARGETS).index)
        self.dropout = dropout
        self.train_norm = train_norm

    def attach(self, encoder: Encoder) -> None:
        """Replace the targets' layers, and unfreeze the norms if asked."""
        self._wrapped = []
        for role in dict.fromkeys(_TARGETS[target][0] for target in self.targets):
            chosen = [_TARGETS[t][1] for t in self.targets if _TARGETS[t][0] == role]
            parts = next(parts for name, _, parts in _TARGETS.values() if name == role)
            for name in layer_names("LoRA", encoder, role):
                owner, _, leaf = name.rpartition(".")
                linear = encoder.get_submodule(name)
                wrapped = LoRALinear(linear, chosen, parts, self.rank, self.scale, self.dropout)
                setattr(encoder.get_submodule(owner), leaf, wrapped)
                self._wrapped.append(name)
        if self.train_norm:
            for name in layer_names("LoRA", encoder, "norm1"):
                encoder.get_submodule(name).requires_grad_(True)

    def reset_from_pretrained(self, encoder: Encoder) -> None:
        """Start at the frozen encoder's features."""
        for name in self._wrapped:
            encoder.get_submodule(name).reset()
