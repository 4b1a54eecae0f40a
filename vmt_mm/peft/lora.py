"""LoRA: low-rank updates of frozen linear layers; rsLoRA and DoRA are options."""

from collections.abc import Collection, Sequence
from math import sqrt
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vmt_mm.errors import InputError
from vmt_mm.peft.bottleneck import check_dropout, check_factor, check_positive
from vmt_mm.peft.method import Backbone, PEFTMethod, layer_names, layers_by_block
from vmt_mm.registry import PEFT_METHODS

#: Role of a layer -> its targets, each an equal part of the layer's output, or a layer of its own.
_TARGETS = dict(qkv=("q", "k", "v"), proj=("proj",), fc1=("fc1",), fc2=("fc2",))


class LoRALinear(nn.Linear):
    """LoRA linear layer W x + b + scale B A x; adds ``lora_A`` and ``lora_B`` to the layer's keys.

    The output consists of ``parts`` equal parts (q, k and v of a fused layer); each ``chosen`` part
    has its own factors A and B of rank r. ``dropout`` is applied to the input of A. With ``dora``,
    the layer is (m / n) (W x + scale B A x) + b for each chosen output, where n is the norm of its
    row of W + scale B A, a constant for gradients, and m is ``lora_magnitude``.
    """

    def __init__(
        self,
        linear: nn.Linear,
        rank: int,
        scale: float,
        dropout: float,
        dora: bool = False,
        chosen: Sequence[int] = (0,),
        parts: int = 1,
    ) -> None:
        super().__init__(linear.in_features, linear.out_features, device="meta")
        self.weight, self.bias = linear.weight, linear.bias
        self.chosen, self.parts, self.scale, self.dropout = tuple(chosen), parts, scale, dropout
        width = linear.out_features // parts
        self.lora_A = nn.Parameter(torch.empty(len(chosen) * rank, linear.in_features))
        self.lora_B = nn.Parameter(torch.empty(len(chosen) * width, rank))
        self.lora_magnitude = nn.Parameter(torch.empty(len(chosen) * width)) if dora else None

    @torch.no_grad()
    def reset(self) -> None:
        """Set B = 0 and m to the norms of the rows of W, and draw A."""
        nn.init.kaiming_uniform_(self.lora_A, nonlinearity="linear")
        nn.init.zeros_(self.lora_B)
        if self.lora_magnitude is not None:
            norms = self.updated_weight().norm(dim=1).chunk(self.parts)
            self.lora_magnitude.copy_(torch.cat([norms[part] for part in self.chosen]))

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., in) to (..., out)."""
        inner = F.linear(F.dropout(x, self.dropout, self.training), self.lora_A)
        out, outer = super().forward(x), self._outer()
        if self.lora_magnitude is not None:
            gain = self._gain(self.lora_magnitude)
            outer = gain[:, None] * outer
            product = out if self.bias is None else out - self.bias
            out = torch.addcmul(out, product, (gain - 1).to(out.dtype))  # exactly W x + b if m = n
        return torch.add(out, F.linear(inner, outer), alpha=self.scale)

    def updated_weight(self) -> Tensor:
        """Return W + scale B A (out, in), without the magnitudes of DoRA."""
        return self.weight + self.scale * (self._outer() @ self.lora_A)

    def _gain(self, magnitude: Tensor) -> Tensor:
        """Return m / n of every output (out,), and 1 for parts without an update."""
        with torch.no_grad():  # as DoRA's authors do, see section 4.3 of their paper
            norms = list(self.updated_weight().norm(dim=1).chunk(self.parts))
        gains = [torch.ones_like(norm) for norm in norms]
        for part, own in zip(self.chosen, magnitude.chunk(len(self.chosen)), strict=True):
            gains[part] = own / norms[part].clamp(min=1e-12)  # a row of W may be 0
        return torch.cat(gains)

    @torch.no_grad()
    def merged(self) -> nn.Linear:
        """Return a linear layer with the same function and no further parameters."""
        linear = nn.Linear(self.in_features, self.out_features, self.bias is not None, "meta")
        weight = self.updated_weight()
        if self.lora_magnitude is not None:
            weight = self._gain(self.lora_magnitude)[:, None] * weight
        linear.weight, linear.bias = nn.Parameter(weight), self.bias
        return linear

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


def wrap_linear(
    backbone: Backbone, name: str, kind: type[LoRALinear] = LoRALinear, **options: Any
) -> LoRALinear:
    """Replace a linear layer by ``kind(layer, **options)``, and return that."""
    owner, _, leaf = name.rpartition(".")
    linear = backbone.get_submodule(name)
    assert isinstance(linear, nn.Linear)
    wrapped = kind(linear, **options)
    setattr(backbone.get_submodule(owner), leaf, wrapped)
    return wrapped


@PEFT_METHODS.register_module()
class LoRA(PEFTMethod):
    """LoRA: low-rank updates W + (alpha / r) B A of linear layers in every block.

    Hu et al., ICLR 2022, https://arxiv.org/abs/2106.09685. B starts at 0.

    Args:
        rank: rank r of the update.
        alpha: the update is scaled by alpha / r, or alpha / sqrt(r) with ``use_rslora``; None means
            alpha = r.
        targets: layers to update, any of q, k, v, proj, fc1 and fc2.
        dropout: dropout probability on the input of A, in [0, 1).
        train_norm: also unfreeze the norm before the attention.
        use_rslora: scale by alpha / sqrt(r): Kalajdzievski 2023, https://arxiv.org/abs/2312.03732.
        use_dora: also train the norm of each row of the updated weight, which starts at that of W:
            DoRA, Liu et al., ICML 2024, https://arxiv.org/abs/2402.09353.
    """

    def __init__(
        self,
        rank: int = 4,
        alpha: float | None = None,
        targets: Sequence[str] = ("q", "v"),
        dropout: float = 0.0,
        train_norm: bool = False,
        use_rslora: bool = False,
        use_dora: bool = False,
    ) -> None:
        super().__init__()
        check_positive(self, rank=rank)
        known = [target for targets in _TARGETS.values() for target in targets]
        several = isinstance(targets, (list, tuple)) and len(targets) > 0
        wrong = not several or any(target not in known for target in targets)
        if wrong or len(set(targets)) < len(targets):
            rule = f"`targets` must be a non-empty list of distinct names from {known}"
            raise InputError(f"LoRA: {rule}, got {targets!r}")
        check_dropout(self, dropout)
        alpha = rank if alpha is None else alpha
        check_factor(self, alpha=alpha)
        scale = alpha / (sqrt(rank) if use_rslora else rank)
        self.options: dict[str, Any] = dict(rank=rank, scale=scale, dropout=dropout, dora=use_dora)
        self.targets, self.train_norm = set(targets), train_norm

    def attach(self, backbone: Backbone) -> None:
        """Replace the target layers; with ``train_norm``, unfreeze the norms."""
        for role, parts in _TARGETS.items():
            chosen = [place for place, target in enumerate(parts) if target in self.targets]
            for names in layers_by_block("LoRA", backbone, role) if chosen else ():
                if len(parts) > 1 and len(names) == len(parts):  # separate q, k and v
                    for place in chosen:
                        wrap_linear(backbone, names[place], **self.options)
                else:
                    for name in names:
                        wrap_linear(backbone, name, chosen=chosen, parts=len(parts), **self.options)
        for name in layer_names("LoRA", backbone, "norm1") if self.train_norm else ():
            backbone.get_submodule(name).requires_grad_(True)

    def reset_from_pretrained(self, backbone: Backbone) -> None:
        """Set every update to 0, which gives the features of the frozen backbone."""
        for module in backbone.modules():
            if isinstance(module, LoRALinear):
                module.reset()

    def merge(self, backbone: Backbone, tasks: Sequence[str]) -> PEFTMethod:
        """Add the updates to the frozen weights; nothing remains, unless updates are per task."""
        return PEFTMethod() if merge_layers(backbone) else self


def merge_layers(backbone: Backbone, keep: Collection[str] = ()) -> bool:
    """Merge all LoRA layers but those named in ``keep``; return whether none is left.

    Layers whose parameters are swapped per task are left.
    """
    layers = {n: m for n, m in backbone.named_modules() if isinstance(m, LoRALinear)}
    chosen = {n for n, layer in layers.items() if n not in keep and layer.lora_A is not None}
    for name in chosen:
        owner, _, leaf = name.rpartition(".")
        setattr(backbone.get_submodule(owner), leaf, layers[name].merged())
    return chosen == layers.keys()
