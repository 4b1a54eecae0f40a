"""VMT-Adapter: one adapter parallel to every MLP, shared by all tasks; per-task scale and shift.

Paper: VMT-Adapter, AAAI 2024, https://arxiv.org/abs/2312.08733, Eqs. 3-6.
Letters: B images, L tokens, d channels of a block, k = d / ratio, s the gate.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import log
from typing import Any

import torch
from torch import Tensor, nn

from vmt_mm.errors import InputError
from vmt_mm.peft.adapter import Adapter
from vmt_mm.peft.bottleneck import KroneckerBottleneck, check_positive
from vmt_mm.peft.method import Backbone, SideOutput
from vmt_mm.registry import PEFT_METHODS


@PEFT_METHODS.register_module()
class VMTAdapter(Adapter):
    """VMT-Adapter; the defaults give the paper's parameter counts.

    Args:
        ratio: rho = d / k, a divisor of every block's channels.
        gate: s in 0..1, the share of F that goes to the tasks; 1 - s joins the stream.
        learnable_gate: train s, one scalar per block through a sigmoid that starts at ``gate``.
        norm, down_bias, up_bias: LayerNorm before W_down, biases of W_down and W_up.
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
        super().__init__(ratio, norm=norm, down_bias=down_bias, up_bias=up_bias)
        number = isinstance(gate, (int, float))
        if not number or not 0 <= gate <= 1 or (learnable_gate and gate in (0, 1)):
            rule = "strictly between 0 and 1 where it is learnable" if learnable_gate else "in 0..1"
            raise InputError(f"{type(self).__name__}: `gate` must be {rule}, got {gate!r}")
        self.constant_gate, self.learnable_gate = float(gate), learnable_gate

    def attach(self, backbone: Backbone) -> None:
        """Create, for every block, the shared bottleneck and the tasks' alpha and gamma."""
        super().attach(backbone)
        self.stages = [spec.stage for spec in backbone.blocks]
        for block, spec in zip(self.blocks, backbone.blocks, strict=True):
            d, tasks = spec.channels, backbone.task_names
            block.alpha = nn.ParameterDict({t: nn.Parameter(torch.ones(d)) for t in tasks})
            block.gamma = nn.ParameterDict({t: nn.Parameter(torch.zeros(d)) for t in tasks})
            block.gate_logit = nn.Parameter(torch.zeros(())) if self.learnable_gate else None

    def reset_from_pretrained(self, backbone: Backbone) -> None:
        """Start at F = 0, alpha = 1, gamma = 0: every task gets the frozen features."""
        super().reset_from_pretrained(backbone)
        for block in self.blocks:
            for task in block.alpha:
                nn.init.ones_(block.alpha[task])
                nn.init.zeros_(block.gamma[task])
            if self.learnable_gate:
                logit = log(self.constant_gate / (1 - self.constant_gate))
                nn.init.constant_(block.gate_logit, logit)

    def gate(self, block: Any) -> Tensor | float:
        """The share s of F that goes to the tasks."""
        return block.gate_logit.sigmoid() if self.learnable_gate else self.constant_gate

    def parallel_to_mlp(self, index: int, y: Tensor) -> SideOutput:
        """(1 - s) F joins the stream, F is kept for the tasks."""
        block = self.blocks[index]
        f = block(y)
        return SideOutput(residual=f, task_feature=f, scale=1 - self.gate(block))

    def task_features(
        self, stage: int, feature: Tensor, kept: Sequence[Tensor], tasks: Sequence[str]
    ) -> dict[str, Tensor]:
        """Feature + sum over the stage's blocks of alpha_t (s F) + gamma_t (Eqs. 4, 5)."""
        blocks = [b for b, place in zip(self.blocks, self.stages, strict=True) if place == stage]
        if len(tasks) > 1 and not torch.is_grad_enabled():  # all tasks in the same operations
            shifts: Any = [sum(block.gamma[t] for block in blocks) for t in tasks]
            every = feature + torch.stack(shifts)[:, None, None]
            for block, f in zip(blocks, kept, strict=True):
                alpha = torch.stack([block.alpha[t] for t in tasks])
                every.addcmul_(f, (self.gate(block) * alpha)[:, None, None])
            return dict(zip(tasks, every, strict=True))
        features = {}
        for task in tasks:
            output = feature + sum(block.gamma[task] for block in blocks)
            for block, f in zip(blocks, kept, strict=True):
                # in place, since no backward pass needs the sum so far; s scales alpha, not F
                output.addcmul_(f, self.gate(block) * block.alpha[task])
            features[task] = output
        return features


@PEFT_METHODS.register_module()
class VMTAdapterLite(VMTAdapter):
    """VMT-Adapter-Lite: W_down and W_up are sums of m Kronecker products that share A (Eq. 6).

    m, also the size of the A_i, divides every block's d and k; the rest: :class:`VMTAdapter`.
    """

    def __init__(
        self,
        m: int = 3,
        ratio: int = 4,
        gate: float = 0.5,
        learnable_gate: bool = False,
        down_bias: bool = False,
        up_bias: bool = False,
    ) -> None:
        super().__init__(ratio, gate, learnable_gate)
        check_positive(self, m=m)
        self.options = dict(terms=m, down_bias=down_bias, up_bias=up_bias)

    def make_bottleneck(self, channels: int, hidden: int) -> nn.Module:
        """F of one block, whose projections are sums of Kronecker products."""
        m = self.options["terms"]
        if channels % m or hidden % m:
            rule = "`m` must divide every block's channels d and k = d / ratio"
            raise InputError(f"VMTAdapterLite: {rule}, got m {m} for d {channels}, k {hidden}")
        return KroneckerBottleneck(channels, hidden, **self.options)
