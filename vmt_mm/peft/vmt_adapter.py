"""VMT-Adapter and VMT-Adapter-Lite, AAAI 2024, https://arxiv.org/abs/2312.08733.

Notation: B images, L tokens, d channels of a block, k = d / ratio, s the gate.
"""

from collections.abc import Sequence
from math import log
from typing import Any

import torch
from torch import Tensor, nn

from vmt_mm.errors import InputError
from vmt_mm.peft.adapter import Adapter
from vmt_mm.peft.bottleneck import KroneckerBottleneck, check_positive
from vmt_mm.peft.method import Backbone, PEFTMethod, SideOutput, TokenGrid
from vmt_mm.registry import PEFT_METHODS


class TaskScales(PEFTMethod):
    """Scales and shifts per task of a shared tensor F of each block (Eqs. 4, 5).

    Mixin for methods that return F (B, L, d) as ``SideOutput.task_feature``; list it first.
    """

    def set_gate(self, gate: float, learnable: bool = False) -> None:
        """Set the share s of F that goes to the tasks. Raises InputError outside [0, 1]."""
        number = isinstance(gate, (int, float))
        if not number or not 0 <= gate <= 1 or (learnable and gate in (0, 1)):
            rule = "in (0, 1) with learnable_gate=True" if learnable else "in [0, 1]"
            raise InputError(f"{type(self).__name__}: `gate` must be {rule}, got {gate!r}")
        self.constant_gate, self.learnable_gate = float(gate), learnable

    def attach(self, backbone: Backbone) -> None:
        """Create what all tasks share, and alpha and gamma (d,) of every task and block."""
        super().attach(backbone)
        self.stages = [spec.stage for spec in backbone.block_specs]
        for block, spec in zip(self.blocks, backbone.block_specs, strict=True):
            d, tasks = spec.channels, backbone.task_names
            block.alpha = nn.ParameterDict({t: nn.Parameter(torch.ones(d)) for t in tasks})
            block.gamma = nn.ParameterDict({t: nn.Parameter(torch.zeros(d)) for t in tasks})
            block.gate_logit = nn.Parameter(torch.zeros(())) if self.learnable_gate else None

    def reset_from_pretrained(self, backbone: Backbone) -> None:
        """Set F = 0, alpha = 1, gamma = 0, which gives the features of the frozen backbone."""
        super().reset_from_pretrained(backbone)
        for block in self.blocks:
            for task in block.alpha:
                nn.init.ones_(block.alpha[task])
                nn.init.zeros_(block.gamma[task])
            if self.learnable_gate:
                logit = log(self.constant_gate / (1 - self.constant_gate))
                nn.init.constant_(block.gate_logit, logit)

    def gate(self, block: Any) -> Tensor | float:
        """Return s of a block: a float, or a scalar tensor if the gate is learnable."""
        return block.gate_logit.sigmoid() if self.learnable_gate else self.constant_gate

    def task_features(
        self,
        stage: int,
        feature: Tensor,
        kept: Sequence[Tensor],
        tasks: Sequence[str],
        grid: TokenGrid,
    ) -> dict[str, Tensor]:
        """Add alpha_t (s F) + gamma_t of every block of the stage to ``feature`` (Eqs. 4, 5)."""
        blocks = [b for b, place in zip(self.blocks, self.stages, strict=True) if place == stage]
        if len(tasks) > 1 and not torch.is_grad_enabled():  # all tasks at once
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
                # in place: backward needs no partial sums; scaling alpha is cheaper than F
                output.addcmul_(f, self.gate(block) * block.alpha[task])
            features[task] = output
        return features


@PEFT_METHODS.register_module()
class VMTAdapter(TaskScales, Adapter):
    """VMT-Adapter: one shared parallel adapter per block, plus a scale and a shift per task.

    With F(y) = ReLU(LN(y) W_down) W_up (Eq. 3), blocks and stages compute (Eqs. 4, 5)::

        x'        = y + MLP(LN2(y)) + (1 - s) F(y)
        feature_t = norm(x') + sum over the stage's blocks of (alpha_t * s F(y) + gamma_t)

    for every task t. Only alpha_t and gamma_t (d,) are per task, so one pass serves all tasks. The
    defaults give the paper's parameter counts. Config: ``peft=dict(type="VMTAdapter", ratio=4)``.

    Args:
        ratio: reduction ratio rho = d / k; must divide the channels d of every block.
        gate: share s of F that goes to the tasks, in [0, 1].
        learnable_gate: train s, one scalar per block behind a sigmoid, from ``gate`` in (0, 1).
        norm: use a LayerNorm before W_down.
        down_bias: use a bias in W_down.
        up_bias: use a bias in W_up.
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
        self.set_gate(gate, learnable_gate)

    def parallel_to_mlp(self, index: int, y: Tensor, grid: TokenGrid) -> SideOutput:
        """Add (1 - s) F(y) to the residual stream, and keep F(y) for the tasks."""
        block = self.blocks[index]
        f = block(y)
        return SideOutput(residual=f, task_feature=f, scale=1 - self.gate(block))


@PEFT_METHODS.register_module()
class VMTAdapterLite(VMTAdapter):
    """VMT-Adapter-Lite: VMT-Adapter whose projections are sums of m Kronecker products (Eq. 6).

    W_down = sum_i A_i (x) B_down,i and W_up = sum_i A_i (x) B_up,i share the A_i (m, m); F has no
    LayerNorm. Arguments as in :class:`VMTAdapter`; m must divide d and k of every block. Config:
    ``peft=dict(type="VMTAdapterLite", m=3, ratio=4)``.
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
        """Build F of one block with Kronecker projections."""
        m = self.options["terms"]
        if channels % m or hidden % m:
            rule = "`m` must divide the channels d and k = d / ratio of every block"
            raise InputError(f"VMTAdapterLite: {rule}, got m={m} for d={channels}, k={hidden}")
        return KroneckerBottleneck(channels, hidden, **self.options)
