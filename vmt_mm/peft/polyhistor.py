"""Polyhistor and Polyhistor-Lite: decomposed hypernetworks and layer-wise scaling kernels.

Notation: d channels of a block, k = d / ratio, E length of a task embedding, r rank.
"""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from vmt_mm.errors import InputError
from vmt_mm.peft.adapter import Adapter
from vmt_mm.peft.bottleneck import check_positive, hidden_width, kronecker_sum
from vmt_mm.peft.method import Backbone, task_embeddings
from vmt_mm.peft.parameter_swap import unregister
from vmt_mm.registry import PEFT_METHODS


class DecomposedHyperNetwork(nn.Module):
    """Hypernetwork of a matrix P(v) Q(v) of rank r: two linear maps from an embedding v (E,)."""

    def __init__(self, embedding: int, out_features: int, in_features: int, rank: int) -> None:
        super().__init__()
        self.rank = rank
        self.outer = nn.Linear(embedding, out_features * rank)
        self.inner = nn.Linear(embedding, rank * in_features)

    def reset(self, variance: float, zero: bool = False) -> None:
        """Generate entries of this variance; with ``zero``, 0 with gradients from step 2 on."""
        embedding = self.outer.in_features
        nn.init.normal_(self.outer.weight, std=(variance / (embedding * self.rank)) ** 0.5)
        nn.init.normal_(self.inner.weight, std=0.0 if zero else embedding**-0.5)
        for layer in (self.outer, self.inner):
            nn.init.zeros_(layer.bias)

    def forward(self, embedding: Tensor) -> Tensor:
        """Map an embedding (E,) to a matrix (out, in)."""
        return self.outer(embedding).view(-1, self.rank) @ self.inner(embedding).view(self.rank, -1)


class HyperNetworkPair(nn.Module):
    """Hypernetworks of a down-projection (k, d) and an up-projection (d, k)."""

    def __init__(self, embedding: int, channels: int, hidden: int, rank: int) -> None:
        super().__init__()
        self.down = DecomposedHyperNetwork(embedding, hidden, channels, rank)
        self.up = DecomposedHyperNetwork(embedding, channels, hidden, rank)
        self.variance = 2 / channels  # He initialisation

    def reset(self) -> None:
        """Initialise such that W_down has variance 2 / d (He initialisation), and W_up is 0."""
        self.down.reset(self.variance)
        self.up.reset(self.variance, zero=True)

    def forward(self, embedding: Tensor) -> dict[str, Tensor]:
        """Map an embedding (E,) to the matrix of each projection."""
        return dict(down=self.down(embedding), up=self.up(embedding))


@PEFT_METHODS.register_module()
class Polyhistor(Adapter):
    """Polyhistor: parallel adapters whose matrices, of rank r, are generated per task.

    Hypernetworks in every block generate both projections from the task embedding, of length
    ``embedding``. The backbone runs once per task. ``ratio`` is d / k, and must divide d.
    Liu et al., NeurIPS 2022, https://arxiv.org/abs/2210.03265, section 4.
    """

    per_task_forward = True

    def __init__(self, ratio: int = 8, embedding: int = 128, rank: int = 5) -> None:
        super().__init__(ratio, norm=False, down_bias=False, up_bias=False)
        check_positive(self, embedding=embedding, rank=rank)
        self.embedding, self.rank = embedding, rank

    def attach(self, backbone: Backbone) -> None:
        """Create bottlenecks without matrices, their hypernetworks, and the task embeddings."""
        with torch.device("meta"):
            super().attach(backbone)
        for block in self.blocks:
            unregister(block, ("down.weight", "up.weight"))
        self.embeddings = task_embeddings(backbone, self.embedding)
        self.add_generators([block.channels for block in backbone.block_specs])

    def add_generators(self, channels: list[int]) -> None:
        """Create a pair of hypernetworks per block."""
        self.generators = nn.ModuleList(map(self._pair, channels))

    def _pair(self, channels: int) -> HyperNetworkPair:
        hidden = hidden_width(self, channels, self.ratio)
        return HyperNetworkPair(self.embedding, channels, hidden, self.rank)

    def reset_from_pretrained(self, backbone: Backbone) -> None:
        """Set all up-projections to 0, and draw random embeddings."""
        for embedding in self.embeddings.values():
            nn.init.normal_(embedding)
        for module in self.modules():
            if isinstance(module, HyperNetworkPair):
                module.reset()

    def matrices(self, embedding: Tensor) -> Iterable[dict[str, Tensor]]:
        """Yield the matrices of every block, by projection."""
        return (pair(embedding) for pair in self.generators)

    def parameters_for(self, task: str) -> dict[str, Tensor]:
        """Generate both matrices of every block."""
        return {
            f"peft.blocks.{index}.{name}.weight": matrix
            for index, of_block in enumerate(self.matrices(self.embeddings[task]))
            for name, matrix in of_block.items()
        }


@PEFT_METHODS.register_module()
class PolyhistorLite(Polyhistor):
    """Polyhistor-Lite: one pair of hypernetworks for all layers, and a scaling kernel per layer.

    W_l = K_l (x) T(v). The generated template T, of rank r, has the size of the narrowest block.
    The scaling kernel K_l (s, s), s = d_l / d_min, belongs to layer l; all tasks share it.
    Arguments as in :class:`Polyhistor`; d_min must divide the channels of every block.
    """

    def __init__(self, ratio: int = 2, embedding: int = 64, rank: int = 22) -> None:
        super().__init__(ratio, embedding, rank)

    def add_generators(self, channels: list[int]) -> None:
        """Create the hypernetworks of the templates, and the scaling kernels."""
        narrowest = min(channels)
        if any(d % narrowest for d in channels):
            rule = "the channels of every block must be a multiple of the narrowest block's"
            raise InputError(f"PolyhistorLite: {rule}, got {sorted(set(channels))}")
        self.templates = self._pair(narrowest)
        scales = [d // narrowest for d in channels]
        self.kernels: Any = nn.ModuleList(
            nn.ParameterDict({name: nn.Parameter(torch.empty(s, s)) for name in ("down", "up")})
            for s in scales
        )

    def reset_from_pretrained(self, backbone: Backbone) -> None:
        """Initialise as Polyhistor, and draw the scaling kernels."""
        super().reset_from_pretrained(backbone)
        for kernel in self.kernels.parameters():
            # each entry of W_l is one product and needs variance 2 / d_l
            nn.init.normal_(kernel, std=len(kernel) ** -0.5)

    def matrices(self, embedding: Tensor) -> Iterable[dict[str, Tensor]]:
        """Yield the scaled templates of every block, by projection."""
        templates = self.templates(embedding)
        for kernels in self.kernels:
            yield {n: kronecker_sum(kernels[n][None], t[None]) for n, t in templates.items()}
