"""Uncertainty weighting (UW): Kendall et al., CVPR 2018, https://arxiv.org/abs/1705.07115."""

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
        self.begin_mean("gradient")

    def begin_update(self, losses: Tensor, present: Tensor) -> None:
        """Train s with the mean gradient over the batches of the last update."""
        self.step(self.mean("gradient"), self.state["batches"] > 0)
        self.begin_mean("gradient")

    def objective(self, losses: Tensor, present: Tensor) -> Tensor:
        """Return the sum over the tasks that are present; add up the gradient of s."""
        s = self.state["parameters"]
        scaled = losses / (2 * s.exp())
        self.add_to_mean("gradient", 0.5 - scaled, present)
        return torch.where(present, scaled + s / 2, 0).sum()
