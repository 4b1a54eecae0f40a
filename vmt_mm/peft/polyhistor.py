"""Polyhistor and Polyhistor-Lite: decomposed hypernetworks, and scaling kernels per layer.

Polyhistor: Liu et al., NeurIPS 2022, https://arxiv.org/abs/2210.03265, section 4.
Letters: B images, L tokens, d channels of a block, k = d / ratio, E length of an embedding, r rank.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vmt_mm.errors import InputError
from vmt_mm.peft.bottleneck import Bottleneck, check_positive, hidden_width, kronecker_sum
from vmt_mm.peft.method import Branch, Encoder, PEFTMethod
from vmt_mm.peft.parameter_swap import unregister
from vmt_mm.registry import PEFT_METHODS

_PROJECTIONS = ("down", "up")


class DecomposedHyperNetwork(nn.Module):
    """Two linear maps from a task's embedding v (E,) to the factors of one matrix P(v) Q(v).

    A hypernetwork for the whole matrix would have E times its size; this one has E r (out + in).

    Args:
        embedding: E.
        out_features: rows of the matrix.
        in_features: its columns.
        rank: r.
    """

    def __init__(self, embedding: int, out_features: int, in_features: int, rank: int) -> None:
        super().__init__()
        self.rank = rank
        self.outer = nn.Linear(embedding, out_features * rank)
        self.inner = nn.Linear(embedding, rank * in_features)

    def reset(self, zero: bool, variance: float) -> None:
        """Make matrices whose entries have this variance, or 0 with gradients from step 2 on."""
        embedding = self.outer.in_features
        nn.init.normal_(self.outer.weight, std=(variance / (embedding * self.rank)) ** 0.5)
        nn.init.normal_(self.inner.weight, std=0.0 if zero else embedding**-0.5)
        for layer in (self.outer, self.inner):
            nn.init.zeros_(layer.bias)

    def forward(self, embedding: Tensor) -> Tensor:
        """(E,) -> (out, in)."""
        return self.outer(embedding).view(-1, self.rank) @ self.inner(embedding).view(self.rank, -1)


@PEFT_METHODS.register_module()
class Polyhistor(PEFTMethod):
    """A ReLU bottleneck beside every MLP; decomposed hypernetworks make its two matrices a task.

    Args:
        ratio: rho = d / k.
        embedding: E, length of a task's embedding.
        rank: r of the generated matrices.

    Raises:
        InputError: if a setting is not positive, or ``ratio`` does not divide a block's channels.
    """

    passes = "per_task"

    def __init__(self, ratio: int = 8, embedding: int = 128, rank: int = 5) -> None:
        super().__init__()
        self.ratio = ratio
        check_positive(type(self).__name__, "embedding", embedding)
        self.embedding = embedding
        check_positive(type(self).__name__, "rank", rank)
        self.rank = rank

    def attach(self, encoder: Encoder) -> None:
        """Create empty bottlenecks, what makes their matrices, and the embeddings."""
        self.blocks = nn.ModuleList()
        for block in encoder.blocks:
            hidden = hidden_width(type(self).__name__, block.channels, self.ratio)
            with torch.device("meta"):
                bottleneck = Bottleneck(
                    block.channels, hidden, norm=False, down_bias=False, up_bias=False
                )
            unregister(bottleneck, ("down.weight", "up.weight"))
            self.blocks.append(bottleneck)
        self.embeddings = nn.ParameterDict(
            {task: nn.Parameter(torch.empty(self.embedding)) for task in encoder.task_names}
        )
        self.add_generators([block.channels for block in encoder.blocks])

    def add_generators(self, channels: list[int]) -> None:
        """Create what makes the matrices: here, two hypernetworks a block."""
        self.generators = nn.ModuleList(self._pair(d) for d in channels)

    def _pair(self, channels: int) -> nn.ModuleDict:
        """Hypernetworks of a down- (k, d) and an up-projection (d, k)."""
        hidden = hidden_width(type(self).__name__, channels, self.ratio)
        sizes = dict(down=(hidden, channels), up=(channels, hidden))
        return nn.ModuleDict(
            {
                name: DecomposedHyperNetwork(self.embedding, *size, self.rank)
                for name, size in sizes.items()
            }
        )

    def reset_from_pretrained(self, encoder: Encoder) -> None:
        """Start at the frozen encoder's features."""
        for embedding in self.embeddings.values():
            nn.init.normal_(embedding)
        for pair, block in zip(self.generators, encoder.blocks, strict=True):
            _reset_pair(pair, block.channels)

    def parameters_for(self, task: str) -> dict[str, Tensor]:
        """Both matrices of every block."""
        return {
            f"peft.blocks.{index}.{name}.weight": pair[name](self.embeddings[task])
            for index, pair in enumerate(self.generators)
            for name in _PROJECTIONS
        }

    def parallel_to_mlp(self, index: int, y: Tensor) -> Branch:
        """The bottleneck's output joins the task's stream."""
        return Branch(stream=self.blocks[index](y))


@PEFT_METHODS.register_module()
class PolyhistorLite(Polyhistor):
    """One pair of hypernetworks makes template kernels; every layer scales them to its size.

    W_l = K_l (x) T(v): the template T has the size of the narrowest block, the scaling kernel K_l
    (s x s, s = d_l / d_min) belongs to the layer and serves all tasks.

    Args:
        ratio: rho = d / k.
        embedding: E, length of a task's embedding.
        rank: r of the templates.

    Raises:
        InputError: as :class:`Polyhistor`, and if a block's channels are no multiple of the
            narrowest block's.
    """

    def __init__(self, ratio: int = 2, embedding: int = 64, rank: int = 22) -> None:
        super().__init__(ratio, embedding, rank)

    def add_generators(self, channels: list[int]) -> None:
        """Create the templates' hypernetworks and the scaling kernels."""
        self.narrowest = min(channels)
        if any(d % self.narrowest for d in channels):
            raise InputError(
                f"PolyhistorLite: every block's channels must be a multiple of the narrowest's, "
                f"got {sorted(set(channels))}"
            )
        self.templates = self._pair(self.narrowest)
        scales = [d // self.narrowest for d in channels]
        self.kernels = nn.ModuleList(
            nn.ParameterDict({name: nn.Parameter(torch.empty(s, s)) for name in _PROJECTIONS})
            for s in scales
        )

    def reset_from_pretrained(self, encoder: Encoder) -> None:
        """Start at the frozen encoder's features."""
        for embedding in self.embeddings.values():
            nn.init.normal_(embedding)
        _reset_pair(self.templates, self.narrowest)
        for kernels in self.kernels:
            for kernel in kernels.values():
                # an entry of W_l is one product, and is to have the variance 2 / d_l
                nn.init.normal_(kernel, std=len(kernel) ** -0.5)

    def parameters_for(self, task: str) -> dict[str, Tensor]:
        """Both matrices of every block."""
        templates = {name: self.templates[name](self.embeddings[task]) for name in _PROJECTIONS}
        return {
            f"peft.blocks.{index}.{name}.weight": kronecker_sum(kernels[name][None], template[None])
            for index, kernels in enumerate(self.kernels)
            for name, template in templates.items()
        }


def _reset_pair(pair: nn.ModuleDict, channels: int) -> None:
    """Down-projections of a ReLU layer's scale, up-projections 0."""
    pair["down"].reset(zero=False, variance=2 / channels)
    pair["up"].reset(zero=True, variance=2 / channels)
