"""LoRA: low-rank updates of frozen linear layers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vmt_mm.errors import InputError
from vmt_mm.peft.bottleneck import check_positive
from vmt_mm.peft.method import Backbone, PEFTMethod, layer_names, layers_by_block
from vmt_mm.registry import PEFT_METHODS

#: Role of a layer -> its targets, each an equal part of the layer's output, or a layer of its own.
_TARGETS = dict(qkv=("q", "k", "v"), proj=("proj",), fc1=("fc1",), fc2=("fc2",))


class LoRALinear(nn.Linear):
    """LoRA linear layer W x + b + scale B A x; adds ``lora_A`` and ``lora_B`` to the layer's keys.

    The output consists of ``parts`` equal parts (q, k and v of a fused layer); each ``chosen`` part
    has its own factors A and B of rank r. ``dropout`` is applied to the input of A.
    """

    def __init__(
        self, linear: nn.Linear, chosen: list, parts: int, rank: int, scale: float, dropout: float
    ) -> None:
        super().__init__(linear.in_features, linear.out_features, device="meta")
        self.weight, self.bias = linear.weight, linear.bias
        self.chosen, self.parts, self.scale, self.dropout = tuple(chosen), parts, scale, dropout
        width = linear.out_features // parts
        self.lora_A = nn.Parameter(torch.empty(len(chosen) * rank, linear.in_features))
        self.lora_B = nn.Parameter(torch.empty(len(chosen) * width, rank))

    def reset(self) -> None:
        """Set B = 0, and draw A."""
        nn.init.kaiming_uniform_(self.lora_A, nonlinearity="linear")
        nn.init.zeros_(self.lora_B)

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., in) to (..., out)."""
        inner = F.linear(F.dropout(x, self.dropout, self.training), self.lora_A)
        update = F.linear(inner, self._outer())
        return torch.add(super().forward(x), update, alpha=self.scale)

    def _outer(self) -> Tensor:
        """Return B as one matrix (out, chosen parts * r), block-diagonal, 0 for the other parts."""
        if self.parts == 1:
            return self.lora_B
        rank, columns = self.lora_B.shape[1], self.lora_A.shape[0]
        blocks = dict(zip(self.chosen, self.lora_B.chunk(len(self.chosen)), strict=True))
        rows = [self.lora_B.new_zeros(self.out_features // self.parts, columns)] * self.parts
        for place, (part, block) in enumerate(blocks.items()):
            rows[part] = F.pad(block, (place * rank, columns - (place + 1) * rank))
        return torch.cat(rows)


@PEFT_METHODS.register_module()
class LoRA(PEFTMethod):
    """LoRA: low-rank updates W + (alpha / r) B A of linear layers in every block.

    Hu et al., ICLR 2022, https://arxiv.org/abs/2106.09685. B starts at 0.

    Args:
        rank: rank r of the update.
        alpha: the update is scaled by alpha / r; None means alpha = r.
        targets: layers to update, any of q, k, v, proj, fc1 and fc2.
        dropout: dropout probability on the input of A, in [0, 1).
        train_norm: also unfreeze the norm before the attention.
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
        check_positive(self, rank=rank)
        known = [target for targets in _TARGETS.values() for target in targets]
        several = isinstance(targets, (list, tuple)) and len(targets) > 0
        if not several or not set(targets) <= set(known) or len(set(targets)) < len(targets):
            rule = f"`targets` must be a non-empty list of distinct names from {known}"
            raise InputError(f"LoRA: {rule}, got {targets!r}")
        if not 0 <= dropout < 1:
            raise InputError(f"LoRA: `dropout` must be in [0, 1), got {dropout!r}")
        scale = 1.0 if alpha is None else alpha / rank
        self.options: dict[str, Any] = dict(rank=rank, scale=scale, dropout=dropout)
        self.targets, self.train_norm = set(targets), train_norm

    def attach(self, backbone: Backbone) -> None:
        """Replace the target layers; with ``train_norm``, unfreeze the norms."""
        for role, parts in _TARGETS.items():
            chosen = [place for place, target in enumerate(parts) if target in self.targets]
            for names in layers_by_block("LoRA", backbone, role) if chosen else ():
                if len(parts) > 1 and len(names) == len(parts):  # separate q, k and v
                    for place in chosen:
                        self._wrap(backbone, names[place], [0], 1)
                else:
                    for name in names:
                        self._wrap(backbone, name, chosen, len(parts))
        for name in layer_names("LoRA", backbone, "norm1") if self.train_norm else ():
            backbone.get_submodule(name).requires_grad_(True)

    def _wrap(self, backbone: Backbone, name: str, chosen: list[int], parts: int) -> None:
        """Replace a linear layer by one with an update of its ``chosen`` parts."""
        owner, _, leaf = name.rpartition(".")
        linear = backbone.get_submodule(name)
        assert isinstance(linear, nn.Linear)
        wrapped = LoRALinear(linear, chosen, parts, **self.options)
        setattr(backbone.get_submodule(owner), leaf, wrapped)

    def reset_from_pretrained(self, backbone: Backbone) -> None:
        """Set every update to 0, which gives the features of the frozen backbone."""
        for module in backbone.modules():
            if isinstance(module, LoRALinear):
                module.reset()
