"""VMT-Adapter: one adapter beside every MLP, shared by all tasks, with per-task scale and shift.

Paper: VMT-Adapter, AAAI 2024, https://arxiv.org/abs/2312.08733, Eqs. 3-5.
Letters: B images, L tokens, d channels of a block, k = d / ratio, T tasks, s the gate.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import log

import torch
from torch import Tensor, nn
from torch.nn.init import kaiming_uniform_

from vmt_mm.errors import InputError
from vmt_mm.peft.method import Branch, Encoder, PEFTMethod
from vmt_mm.registry import PEFT_METHODS


class VMTBlock(nn.Module):
    """The adapter of one block: LN, W_down, ReLU, W_up, and alpha, gamma of every task."""

    def __init__(
        self,
        channels: int,
        hidden: int,
        tasks: Sequence[str],
        gate: float,
        learnable_gate: bool,
        norm: bool,
        down_bias: bool,
        up_bias: bool,
    ) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels) if norm else nn.Identity()
        self.down = nn.Linear(channels, hidden, bias=down_bias)
        self.up = nn.Linear(hidden, channels, bias=up_bias)
        self.alpha = nn.ParameterDict({t: nn.Parameter(torch.ones(channels)) for t in tasks})
        self.gamma = nn.ParameterDict({t: nn.Parameter(torch.zeros(channels)) for t in tasks})
        self.constant_gate = gate
        self.gate_logit = nn.Parameter(torch.zeros(())) if learnable_gate else None

    def reset(self) -> None:
        """Start at F = 0, alpha = 1, gamma = 0: every task sees the frozen features."""
        if isinstance(self.norm, nn.LayerNorm):
            self.norm.reset_parameters()
        kaiming_uniform_(self.down.weight, nonlinearity="relu")
        nn.init.zeros_(self.up.weight)
        for bias in (self.down.bias, self.up.bias):
            if bias is not None:
                nn.init.zeros_(bias)
        for task in self.alpha:
            nn.init.ones_(self.alpha[task])
            nn.init.zeros_(self.gamma[task])
        if self.gate_logit is not None:
            nn.init.constant_(self.gate_logit, log(self.constant_gate / (1 - self.constant_gate)))

    def gate(self) -> Tensor | float:
        """The share s of F that goes to the tasks."""
        return self.constant_gate if self.gate_logit is None else self.gate_logit.sigmoid()

    def forward(self, y: Tensor) -> Tensor:
        """F = ReLU(LN(y) W_down) W_up (Eq. 3), (B, L, d)."""
        return self.up(self.down(self.norm(y)).relu())


@PEFT_METHODS.register_module()
class VMTAdapter(PEFTMethod):
    """VMT-Adapter; the defaults give the paper's parameter counts.

    Args:
        ratio: rho = d / k, by which the bottleneck is narrower than the block.
        gate: s in 0..1, the share of F that goes to the tasks; 1 - s joins the stream.
        learnable_gate: train s, one scalar a block through a sigmoid that starts at ``gate``.
        norm: LayerNorm before W_down.
        down_bias: bias of W_down.
        up_bias: bias of W_up.

    Raises:
        InputError: if ``ratio`` does not divide a block's channels or ``gate`` is out of range.
    """

    def __init__(
        self,
        ratio: int = 4,
        gate: float = 0.5,
        learnable_gate: bool = False,
        norm: bool = True,
        down_bias: bool = False,
        up_bias: bool = True,
    ) -> None:
        super().__init__()
        if not 0 <= gate <= 1 or (learnable_gate and gate in (0, 1)):
            rule = "strictly between 0 and 1 where it is learnable" if learnable_gate else "in 0..1"
            raise InputError(f"VMTAdapter: `gate` must be {rule}, got {gate}")
        self.ratio = ratio
        self.options = dict(
            gate=float(gate),
            learnable_gate=learnable_gate,
            norm=norm,
            down_bias=down_bias,
            up_bias=up_bias,
        )

    def attach(self, encoder: Encoder) -> None:
        """Create one adapter for every block."""
        self.stages = [block.stage for block in encoder.blocks]
        self.blocks = nn.ModuleList()
        for block in encoder.blocks:
            whole = isinstance(self.ratio, int) and self.ratio > 0
            if not whole or block.channels % self.ratio:
                raise InputError(
                    f"VMTAdapter: `ratio` must be positive and divide every block's channels, "
                    f"got ratio {self.ratio!r} for {block.channels} channels"
                )
            hidden = block.channels // self.ratio
            self.blocks.append(VMTBlock(block.channels, hidden, encoder.task_names, **self.options))

    def reset_from_pretrained(self, encoder: Encoder) -> None:
        """Start at the frozen encoder's features."""
        for block in self.blocks:
            block.reset()

    def beside_mlp(self, index: int, y: Tensor) -> Branch:
        """F of the block: (1 - s) F joins the stream, F is kept for the decoders."""
        block = self.blocks[index]
        features = block(y)
        return Branch(stream=(1 - block.gate()) * features, for_decoders=features)

    def for_decoders(
        self,
        stage: int,
        feature: Tensor,
        kept: Sequence[Tensor | None],
        tasks: Sequence[str],
    ) -> dict[str, Tensor]:
        """Feature + sum over the stage's blocks of alpha_t * (s F) + gamma_t (Eqs. 4, 5)."""
        blocks = [b for b, place in zip(self.blocks, self.stages, strict=True) if place == stage]
        outputs = {}
        for task in tasks:
            output = feature + sum(block.gamma[task] for block in blocks)
            for block, features in zip(blocks, kept, strict=True):
                # s alpha is a vector: scaling it is cheaper than scaling F
                output = torch.addcmul(output, features, block.gate() * block.alpha[task])
            outputs[task] = output
        return outputs
