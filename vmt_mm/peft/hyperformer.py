"""Hyperformer: adapters that hypernetworks generate from one embedding per task.

Notation: B images, L tokens, d channels of a block, k = d / ratio, E length of an embedding.
"""

from math import prod

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vmt_mm.peft.bottleneck import check_positive, hidden_width
from vmt_mm.peft.method import Backbone, PEFTMethod, TokenGrid, task_embeddings
from vmt_mm.peft.parameter_swap import unregister
from vmt_mm.registry import PEFT_METHODS

_PLACES = ("after_attn", "after_mlp")


class ConditionalAdapter(nn.Module):
    """Adapter A(h) = h + LN(GELU(h W_down) W_up) whose parameters a hypernetwork generates."""

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        with torch.device("meta"):
            self.down = nn.Linear(channels, hidden)
            self.up = nn.Linear(hidden, channels)
            self.norm = nn.LayerNorm(channels)
        self.shapes = {name: tuple(p.shape) for name, p in self.named_parameters()}
        unregister(self, self.shapes)

    def forward(self, h: Tensor) -> Tensor:
        """Compute A(h), (B, L, d) -> (B, L, d)."""
        return h + self.norm(self.up(F.gelu(self.down(h))))


class AdapterGenerator(nn.Module):
    """Linear hypernetwork from a task embedding (E,) to all parameters of one adapter."""

    def __init__(self, embedding: int, shapes: dict[str, tuple[int, ...]]) -> None:
        super().__init__()
        self.shapes = shapes
        self.sizes = [prod(shape) for shape in shapes.values()]
        self.weight = nn.Parameter(torch.empty(sum(self.sizes), embedding))
        self.bias = nn.Parameter(torch.empty(sum(self.sizes)))

    @torch.no_grad()
    def reset(self) -> None:
        """Generate projections of the usual scale and a LayerNorm of zeros, so that A(h) = h."""
        embedding = self.weight.shape[1]
        self.bias.zero_()
        for shape, rows in zip(self.shapes.values(), self.weight.split(self.sizes), strict=True):
            # entries of a projection get std 1 / sqrt(in)
            rows.normal_(std=(embedding * shape[1]) ** -0.5) if len(shape) == 2 else rows.zero_()

    def forward(self, embedding: Tensor) -> dict[str, Tensor]:
        """Map an embedding (E,) to the parameters by name."""
        parts = F.linear(embedding, self.weight, self.bias).split(self.sizes)
        return {n: v.view(s) for (n, s), v in zip(self.shapes.items(), parts, strict=True)}


@PEFT_METHODS.register_module()
class Hyperformer(PEFTMethod):
    """Hyperformer: per task, two generated adapters in every block, after attention and MLP.

    A linear hypernetwork per adapter maps the task embedding, of length ``embedding``, to all
    parameters of A(h) = h + LN(GELU(h W_down) W_up). The backbone runs once per task. ``ratio`` is
    d / k, and must divide d. ACL 2021: https://arxiv.org/abs/2106.04489, section 2.
    """

    per_task_forward = True

    def __init__(self, ratio: int = 8, embedding: int = 64) -> None:
        super().__init__()
        check_positive(self, embedding=embedding)
        self.ratio, self.embedding = ratio, embedding

    def attach(self, backbone: Backbone) -> None:
        """Create adapters without parameters, their hypernetworks, and the task embeddings."""
        self.blocks, self.generators = nn.ModuleList(), nn.ModuleList()
        for block in backbone.block_specs:
            hidden = hidden_width(self, block.channels, self.ratio)
            adapters = {place: ConditionalAdapter(block.channels, hidden) for place in _PLACES}
            generators = {p: AdapterGenerator(self.embedding, adapters[p].shapes) for p in _PLACES}
            self.blocks.append(nn.ModuleDict(adapters))
            self.generators.append(nn.ModuleDict(generators))
        self.embeddings = task_embeddings(backbone, self.embedding)

    def reset_from_pretrained(self, backbone: Backbone) -> None:
        """Set every adapter to the identity, and draw random embeddings."""
        for embedding in self.embeddings.values():
            nn.init.normal_(embedding)
        for module in self.generators.modules():
            if isinstance(module, AdapterGenerator):
                module.reset()

    def parameters_for(self, task: str) -> dict[str, Tensor]:
        """Generate all adapters of a task."""
        return {
            f"peft.blocks.{name}.{key}": value
            for name, generator in self.generators.named_modules()
            if isinstance(generator, AdapterGenerator)
            for key, value in generator(self.embeddings[task]).items()
        }

    def after_attn(self, index: int, out: Tensor, grid: TokenGrid) -> Tensor:
        """Apply the first adapter of the block."""
        return self.blocks[index]["after_attn"](out)

    def after_mlp(self, index: int, out: Tensor, grid: TokenGrid) -> Tensor:
        """Apply the second adapter of the block."""
        return self.blocks[index]["after_mlp"](out)
