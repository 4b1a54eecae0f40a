"""Hyperformer: hypernetworks make every task's adapters from an embedding of the task.

Hyperformer: Karimi Mahabadi et al., ACL 2021, https://arxiv.org/abs/2106.04489, section 2.
Letters: B images, L tokens, d channels of a block, k = d / ratio, E length of an embedding.
"""

from __future__ import annotations

from math import prod

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vmt_mm.peft.bottleneck import check_positive, hidden_width
from vmt_mm.peft.method import Encoder, PEFTMethod
from vmt_mm.peft.parameter_swap import unregister
from vmt_mm.registry import PEFT_METHODS

#: Where a block's two adapters act.
_PLACES = ("after_attn", "after_mlp")


class ConditionalAdapter(nn.Module):
    """A(h) = h + LN(GELU(h W_down) W_up); every parameter comes from a hypernetwork.

    Args:
        channels: d.
        hidden: k.
    """

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.down = nn.Linear(channels, hidden, device="meta")
        self.up = nn.Linear(hidden, channels, device="meta")
        self.norm = nn.LayerNorm(channels, device="meta")
        self.shapes = {name: tuple(p.shape) for name, p in self.named_parameters()}
        unregister(self, self.shapes)

    def forward(self, h: Tensor) -> Tensor:
        """(B, L, d) -> (B, L, d)."""
        return h + self.norm(self.up(F.gelu(self.down(h))))


class AdapterGenerator(nn.Module):
    """A linear map from a task's embedding (E,) to all parameters of one adapter.

    Args:
        embedding: E.
        shapes: name -> shape of each parameter.
    """

    def __init__(self, embedding: int, shapes: dict[str, tuple[int, ...]]) -> None:
        super().__init__()
        self.shapes = shapes
        self.weight = nn.Parameter(torch.empty(sum(map(prod, shapes.values())), embedding))
        self.bias = nn.Parameter(torch.empty(len(self.weight)))

    def reset(self) -> None:
        """Make projections of a layer's usual scale; a norm of weight and bias 0 hides them."""
        embedding = self.weight.shape[1]
        with torch.no_grad():
            self.bias.zero_()
            for (name, shape), rows in zip(
                self.shapes.items(), self.weight.split(self._sizes()), strict=True
            ):
                if name.endswith("weight") and len(shape) == 2:
                    rows.normal_(std=(embedding * shape[1]) ** -0.5)  # entries of std 1/sqrt(in)
                else:
                    rows.zero_()

    def forward(self, embedding: Tensor) -> dict[str, Tensor]:
        """(E,) -> name -> parameter."""
        parts = F.linear(embedding, self.weight, self.bias).split(self._sizes())
        return {n: v.view(s) for (n, s), v in zip(self.shapes.items(), parts, strict=True)}

    def _sizes(self) -> list[int]:
        return [prod(shape) for shape in self.shapes.values()]


@PEFT_METHODS.register_module()
class Hyperformer(PEFTMethod):
    """Two adapters a block, after attention and after the MLP, made anew for every task.

    Args:
        ratio: rho = d / k.
        embedding: E, length of a task's embedding.

    Raises:
        InputError: if ``ratio`` does not divide a block's channels, or ``embedding`` is not
            positive.
    """

    passes = "per_task"

    def __init__(self, ratio: int = 8, embedding: int = 64) -> None:
        super().__init__()
        self.ratio = ratio
        check_positive("Hyperformer", "embedding", embedding)
        self.embedding = embedding

    def attach(self, encoder: Encoder) -> None:
        """Create empty adapters, their hypernetworks, and the embeddings."""
        self.blocks, self.generators = nn.ModuleList(), nn.ModuleList()
        for block in encoder.blocks:
            hidden = hidden_width("Hyperformer", block.channels, self.ratio)
            adapters = {place: ConditionalAdapter(block.channels, hidden) for place in _PLACES}
            self.blocks.append(nn.ModuleDict(adapters))
            self.generators.append(
                nn.ModuleDict(
                    {p: AdapterGenerator(self.embedding, a.shapes) for p, a in adapters.items()}
                )
            )
        self.embeddings = nn.ParameterDict(
            {task: nn.Parameter(torch.empty(self.embedding)) for task in encoder.task_names}
        )

    def reset_from_pretrained(self, encoder: Encoder) -> None:
        """Start at the frozen encoder's features."""
        for embedding in self.embeddings.values():
            nn.init.normal_(embedding)
        for generators in self.generators:
            for generator in generators.values():
                generator.reset()

    def parameters_for(self, task: str) -> dict[str, Tensor]:
        """All adapters of a task."""
        return {
            f"peft.blocks.{index}.{place}.{name}": value
            for index, generators in enumerate(self.generators)
            for place, generator in generators.items()
            for name, value in generator(self.embeddings[task]).items()
        }

    def after_attn(self, index: int, out: Tensor) -> Tensor:
        """The first adapter of the block."""
        return self.blocks[index]["after_attn"](out)

    def after_mlp(self, index: int, out: Tensor) -> Tensor:
        """The second adapter of the block."""
        return self.blocks[index]["after_mlp"](out)
