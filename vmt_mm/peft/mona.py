"""Mona, CVPR 2025, https://arxiv.org/abs/2408.08345: adapters with convolutions in the stream.

Notation: B images, L tokens, N = h w patches, d channels of a block, k channels of the bottleneck.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vmt_mm.peft.bottleneck import check_dropout, check_positive
from vmt_mm.peft.method import Backbone, PEFTMethod, SideOutput, TokenGrid
from vmt_mm.peft.vmt_adapter import TaskScales
from vmt_mm.registry import PEFT_METHODS


class MonaAdapter(nn.Module):
    """Mona's update Up(drop(GELU(f + Conv1x1(f)))) of patches x (B, N, d).

    f is h + (DW3x3(h) + DW5x5(h) + DW7x7(h)) / 3, where h = Down(gamma * LN(x) + gamma_x * x).
    """

    def __init__(self, channels: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.dropout = dropout
        self.norm = nn.LayerNorm(channels)
        self.gamma = nn.Parameter(torch.empty(channels))
        self.gamma_x = nn.Parameter(torch.empty(channels))
        self.down = nn.Linear(channels, hidden)
        self.depthwise = nn.ModuleList(
            nn.Conv2d(hidden, hidden, side, padding=side // 2, groups=hidden) for side in (3, 5, 7)
        )
        self.pointwise = nn.Conv2d(hidden, hidden, 1)
        self.up = nn.Linear(hidden, channels)

    def reset(self, zero_init: bool) -> None:
        """Set the authors' initial values; with ``zero_init``, Up is 0."""
        nn.init.constant_(self.gamma, 1e-6)
        nn.init.ones_(self.gamma_x)
        layers: Any = (self.norm, self.down, *self.depthwise, self.pointwise, self.up)
        for layer in layers:
            layer.reset_parameters()
        for parameter in self.up.parameters() if zero_init else ():
            nn.init.zeros_(parameter)

    def forward(self, x: Tensor, grid: TokenGrid) -> Tensor:
        """Compute the update of patches (B, N, d) on ``grid``."""
        h = self.down(self.gamma * self.norm(x) + self.gamma_x * x)
        f = h.transpose(1, 2).reshape(h.shape[0], h.shape[2], grid.height, grid.width)
        layers: Any = self.depthwise  # one kernel: a sum of convolutions is a convolution
        kernel: Any = sum(F.pad(c.weight, [3 - c.padding[0]] * 4) for c in layers) / 3
        kernel = kernel.reshape(self.up.in_features, 1, 7, 7)  # ONNX needs a constant shape
        bias: Any = sum(c.bias for c in layers) / 3
        f = f + F.conv2d(f, kernel, bias, padding=3, groups=self.up.in_features)
        f = F.gelu(f + self.pointwise(f)).flatten(2).transpose(1, 2)
        return self.up(F.dropout(f, self.dropout, self.training))


@PEFT_METHODS.register_module()
class Mona(PEFTMethod):
    """Mona: two adapters per block, on the stream after the sums of attention and MLP.

    They add :class:`MonaAdapter` of the patches; class and register tokens are unchanged. All tasks
    share them.

    Args:
        hidden: channels k of the bottleneck.
        dropout: dropout probability before Up, in [0, 1).
        zero_init: start with Up = 0, which gives the features of the frozen backbone. The authors'
            initial values (False) do not.
    """

    def __init__(self, hidden: int = 64, dropout: float = 0.1, zero_init: bool = True) -> None:
        super().__init__()
        check_positive(self, hidden=hidden)
        check_dropout(self, dropout)
        self.hidden, self.dropout, self.zero_init = hidden, dropout, zero_init

    def attach(self, backbone: Backbone) -> None:
        """Create two adapters per block."""
        self.blocks = nn.ModuleList()
        for spec in backbone.block_specs:
            sizes = (spec.channels, self.hidden, self.dropout)
            self.blocks.append(nn.ModuleDict({p: MonaAdapter(*sizes) for p in ("attn", "mlp")}))

    def reset_from_pretrained(self, backbone: Backbone) -> None:
        """Set the initial values."""
        for module in self.modules():
            if isinstance(module, MonaAdapter):
                module.reset(self.zero_init)

    def after_residual(self, index: int, where: str, x: Tensor, grid: TokenGrid) -> SideOutput:
        """Add the update of the patches."""
        update = self.blocks[index][where](x[:, grid.prefix :], grid)
        return SideOutput(residual=F.pad(update, (0, 0, grid.prefix, 0)) if grid.prefix else update)


@PEFT_METHODS.register_module()
class VMTMona(TaskScales, Mona):
    """Mona with VMT-Adapter's scales and shifts per task; one pass serves all tasks. Not published.

    F is the update after the MLP's sum. The stream gets (1 - s) F, a task alpha_t * s F + gamma_t.
    ``gate`` is s, in [0, 1]; the other arguments are those of Mona.
    """

    def __init__(self, hidden: int = 64, dropout: float = 0.1, gate: float = 0.5) -> None:
        super().__init__(hidden, dropout)
        self.set_gate(gate)

    def after_residual(self, index: int, where: str, x: Tensor, grid: TokenGrid) -> SideOutput:
        """Add the update; after the MLP, add (1 - s) F and keep F for the tasks."""
        f = super().after_residual(index, where, x, grid).residual
        if where == "attn":
            return SideOutput(f)
        return SideOutput(f, task_feature=f, scale=1 - self.gate(self.blocks[index]))
