"""Fast adaptive multitask optimization: Liu et al., NeurIPS 2023, arXiv:2306.03792."""

from collections.abc import Sequence
from math import inf

import torch
from torch import Tensor

from vmt_mm.errors import InputError
from vmt_mm.registry import WEIGHTINGS
from vmt_mm.weighting.weighting import LearnedWeighting, safe_log, softmax_present


@WEIGHTINGS.register_module()
class FAMO(LearnedWeighting):
    """Weights z_i / L_i, scaled to a sum of 1, with z = softmax(parameters).

    After an update, the parameters of tasks whose log L_i decreased less grow. This is measured by
    the losses of the next batch, as the authors propose for less cost, not by those of the same
    batch again.

    Args:
        lr: learning rate of the parameters.
        weight_decay: their decay, gamma in the paper.
    """

    takes_logarithms = True

    def __init__(self, tasks: Sequence[str], lr: float = 0.025, weight_decay: float = 1e-3) -> None:
        super().__init__(tasks, lr, weight_decay=weight_decay)
        if not isinstance(weight_decay, (int, float)) or not 0 <= weight_decay < inf:
            rule = "`weight_decay` must be a number >= 0"
            raise InputError(f"model.weighting: {rule}, got {weight_decay!r}")
        self.begin_mean("logs")

    def begin_update(self, losses: Tensor, present: Tensor) -> None:
        """Train the parameters with the change of log L_i since the last update."""
        known = present & (self.state["batches"] > 0)
        change = torch.where(known, self.mean("logs") - safe_log(losses), 0)
        z = softmax_present(self.state["parameters"], known)
        self.step(z * (change - (z * change).sum()), known)
        self.begin_mean("logs")

    def objective(self, losses: Tensor, present: Tensor) -> Tensor:
        """Return sum_i z_i log L_i / c with c = sum_i z_i / L_i; add up the logarithms."""
        logs = safe_log(losses)
        self.add_to_mean("logs", logs, present)
        z = softmax_present(self.state["parameters"], present)
        scale = (z / losses.detach().clamp(min=1e-8)).sum()
        return (z * logs).sum() / torch.where(present.any(), scale, 1)
