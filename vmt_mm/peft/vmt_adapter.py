"""VMT-Adapter: one adapter beside every MLP, shared by all tasks, with per-task scale and shift.

Paper: VMT-Adapter, AAAI 2024, https://arxiv.org/abs/2312.08733, Eqs. 3-6.
Letters: B images, L tokens, d channels of a block, k = d / ratio, T tasks, s the gate.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import log

import torch
from torch import Tensor, nn

from vmt_mm.errors import InputError
from vmt_mm.peft.bottleneck import (
    Bottleneck,
    KroneckerBottleneck,
    check_positive,
    hidden_width,
)
from vmt_mm.peft.method import Branch, Encoder, PEFTMethod
from vmt_mm.registry import PEFT_METHODS
from vmt_mm.utils.compat import is_compiling, is_exporting
from vmt_mm.utils.recycled import RecycledMemory


class TaskScales:
    """Mixin of a block's bottleneck: alpha and gamma of every task, and the gate."""

    def add_tasks(
        self, channels: int, tasks: Sequence[str], gate: float, learnable_gate: bool
    ) -> None:
        """Create the parameters."""
        self.alpha = nn.ParameterDict({t: nn.Parameter(torch.ones(channels)) for t in tasks})
        self.gamma = nn.ParameterDict({t: nn.Parameter(torch.zeros(channels)) for t in tasks})
        self.constant_gate = gate
        self.gate_logit = nn.Parameter(torch.zeros(())) if learnable_gate else None

    def reset(self) -> None:
        """Start at F = 0, alpha = 1, gamma = 0: every task sees the frozen features."""
        super().reset()
        for task in self.alpha:
            nn.init.ones_(self.alpha[task])
            nn.init.zeros_(self.gamma[task])
        if self.gate_logit is not None:
            nn.init.constant_(self.gate_logit, log(self.constant_gate / (1 - self.constant_gate)))

    def gate(self) -> Tensor | float:
        """The share s of F that goes to the tasks."""
        return self.constant_gate if self.gate_logit is None else self.gate_logit.sigmoid()


class VMTBlock(TaskScales, Bottleneck):
    """F = ReLU(LN(y) W_down) W_up (Eq. 3), and the tasks' scales."""


class VMTLiteBlock(TaskScales, KroneckerBottleneck):
    """F with projections that are sums of Kronecker products (Eq. 6), and the tasks' scales."""


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
        number = isinstance(gate, (int, float))
        if not number or not 0 <= gate <= 1 or (learnable_gate and gate in (0, 1)):
            rule = "strictly between 0 and 1 where it is learnable" if learnable_gate else "in 0..1"
            raise InputError(f"{type(self).__name__}: `gate` must be {rule}, got {gate!r}")
        self.ratio = ratio
        self.gate_options = dict(gate=float(gate), learnable_gate=learnable_gate)
        self.options = dict(norm=norm, down_bias=down_bias, up_bias=up_bias)

    def attach(self, encoder: Encoder) -> None:
        """Create one adapter for every block."""
        self.stages = [block.stage for block in encoder.blocks]
        self.blocks = nn.ModuleList()
        for block in encoder.blocks:
            hidden = hidden_width(type(self).__name__, block.channels, self.ratio)
            bottleneck = self.make_block(block.channels, hidden)
            bottleneck.add_tasks(block.channels, encoder.task_names, **self.gate_options)
            self.blocks.append(bottleneck)

    def make_block(self, channels: int, hidden: int) -> VMTBlock | VMTLiteBlock:
        """The bottleneck of one block, still without tasks."""
        return VMTBlock(channels, hidden, **self.options)

    def reset_from_pretrained(self, encoder: Encoder) -> None:
        """Start at the frozen encoder's features."""
        for block in self.blocks:
            block.reset()

    def parallel_to_mlp(self, index: int, y: Tensor) -> Branch:
        """F of the block: (1 - s) F joins the stream, F is kept for the decoders."""
        block = self.blocks[index]
        features = block(y)
        return Branch(stream=features, for_decoders=features, gain=1 - block.gate())

    def for_decoders(
        self,
        stage: int,
        feature: Tensor,
        kept: Sequence[Tensor | None],
        tasks: Sequence[str],
    ) -> dict[str, Tensor]:
        """Feature + sum over the stage's blocks of alpha_t * (s F) + gamma_t (Eqs. 4, 5)."""
        blocks = [b for b, place in zip(self.blocks, self.stages, strict=True) if place == stage]
        # s alpha is a vector: scaling it is cheaper than scaling F
        scales = {t: [block.gate() * block.alpha[t] for block in blocks] for t in tasks}
        shifts = {t: sum(block.gamma[t] for block in blocks) for t in tasks}
        traced = is_compiling() or is_exporting()
        if len(tasks) > 1 and not (traced or torch.is_grad_enabled()):
            return _combine(feature, kept, scales, shifts)
        outputs = {}
        for task in tasks:
            output = feature + shifts[task]
            for features, scale in zip(kept, scales[task], strict=True):
                # in place: no backward pass needs the sum's former values, and fresh memory costs
                # more than the sum
                output.addcmul_(features, scale)
            outputs[task] = output
        return outputs


#: Elements that are computed with at a time: few enough to stay in the processor's cache.
_CHUNK = 1 << 18
_MEMORY = RecycledMemory()


def _combine(
    feature: Tensor,
    kept: Sequence[Tensor],
    scales: Mapping[str, Sequence[Tensor]],
    shifts: Mapping[str, Tensor],
) -> dict[str, Tensor]:
    """The same sums for all tasks at once, some tokens after the other.

    What all tasks read comes from memory once, so that further tasks cost little more than writing
    their features.

    Args:
        feature: (B, L, d).
        kept: (B, L, d) for every block.
        scales: task -> (d,) for every block.
        shifts: task -> (d,).

    Returns:
        Task name -> (B, L, d).
    """
    shift = torch.stack(tuple(shifts.values()))[:, None]  # (T, 1, d)
    scale = [torch.stack(of_block)[:, None] for of_block in zip(*scales.values(), strict=True)]
    rows, count = feature.flatten(0, 1), max(1, _CHUNK // (len(shifts) * feature.shape[2]))
    dtype = torch.result_type(feature, shift)
    every = _MEMORY.empty(len(shifts), *rows.shape, like=feature, dtype=dtype)  # (T, B L, d)
    parts = [x.flatten(0, 1).split(count) for x in kept]
    for own, output, *features in zip(
        rows.split(count), every.split(count, dim=1), *parts, strict=True
    ):
        torch.add(own, shift, out=output)
        for part, factor in zip(features, scale, strict=True):
            output.addcmul_(part, factor)
    return {task: x.view_as(feature) for task, x in zip(shifts, every, strict=True)}


@PEFT_METHODS.register_module()
class VMTAdapterLite(VMTAdapter):
    """VMT-Adapter-Lite: W_down and W_up are sums of m Kronecker products that share A (Eq. 6).

    Args:
        m: number of Kronecker terms, and the size of the shared matrices A_i.
        ratio: rho = d / k.
        gate: see :class:`VMTAdapter`.
        learnable_gate: see :class:`VMTAdapter`.
        down_bias: bias of W_down.
        up_bias: bias of W_up.

    Raises:
        InputError: if m does not divide d and k of every block.
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
        check_positive("VMTAdapterLite", "m", m)
        self.options = dict(terms=m, down_bias=down_bias, up_bias=up_bias)

    def make_block(self, channels: int, hidden: int) -> VMTLiteBlock:
        """The bottleneck of one block, still without tasks."""
        m = self.options["terms"]
        if channels % m or hidden % m:
            raise InputError(
                f"VMTAdapterLite: `m` must divide every block's channels d and k = d / ratio, got "
                f"m {m} for d {channels}, k {hidden}"
            )
        return VMTLiteBlock(channels, hidden, **self.options)
