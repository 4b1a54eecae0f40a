"""Uncertainty weighting (UW): Kendall et al., CVPR 2018, https://arxiv.org/abs/1705.07115."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from vmt_mm.registry import WEIGHTINGS
from vmt_mm.weighting.weighting import LearnedWeighting


@WEIGHTINGS.register_module()
class Uncertainty(LearnedWeighting):
    """Sum of L_i / (2 exp(s_i)) + s_i / 2, with a learned log variance s_i per task.

    Args:
        lr: learning rate of s.
        initial: initial value of s.
    """

    def __init__(self, tasks: Sequence[str], lr: float = 1e-3, initial: float = -0.5) -> None:
        super().__init__(tasks, lr, initial)
        zeros = torch.zeros(len(self.tasks))
        self.state |= dict(gradient=zeros, batches=zeros.clone())

    def begin_update(self, losses: Tensor, present: Tensor) -> None:
        """Train s with the mean gradient over the batches of the last update."""
        batches = self.state["batches"]
        self.step(self.state["gradient"] / batches.clamp(min=1), batches > 0)
        zeros = torch.zeros_like(batches)
        self.state |= dict(gradient=zeros, batches=zeros)

    def objective(self, losses: Tensor, present: Tensor) -> Tensor:
        """Return the sum over the tasks that are present; add up the gradient of s."""
        s = self.state["parameters"]
        scaled = losses / (2 * s.exp())
        self.state["gradient"] = self.state["gradient"] + torch.where(
            present, 0.5 - scaled.detach(), 0
        )
        self.state["batches"] = self.state["batches"] + present
        return torch.where(present, scaled + s / 2, 0).sum()
