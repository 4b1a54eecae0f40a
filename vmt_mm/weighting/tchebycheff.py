"""Smooth Tchebycheff scalarization (STCH): Lin et al., ICML 2024, arXiv:2402.19078."""

from collections.abc import Sequence

import torch
from torch import Tensor

from vmt_mm.errors import InputError
from vmt_mm.registry import WEIGHTINGS
from vmt_mm.weighting.weighting import Weighting, check_positive, safe_log


@WEIGHTINGS.register_module()
class SmoothTchebycheff(Weighting):
    """T mu log sum_i exp(log(L_i / n_i) / mu): mostly the task that is worst relative to n_i.

    n_i is the mean loss of epoch ``warmup_epochs``. Until its end, the objective is sum_i log L_i.

    Args:
        mu: temperature; small values select the worst task alone.
        warmup_epochs: number of epochs before the one that measures n_i.
    """

    takes_logarithms = True

    def __init__(self, tasks: Sequence[str], mu: float = 1.0, warmup_epochs: int = 4) -> None:
        super().__init__(tasks)
        check_positive(mu=mu)
        if not isinstance(warmup_epochs, int) or warmup_epochs < 0:
            rule = "`warmup_epochs` must be an integer >= 0"
            raise InputError(f"model.weighting: {rule}, got {warmup_epochs!r}")
        self.mu, self.warmup_epochs = mu, warmup_epochs
        self.begin_mean("sum")

    def objective(self, losses: Tensor, present: Tensor) -> Tensor:
        """Return the objective of the tasks that are present."""
        logs = safe_log(losses)
        if self.epoch <= self.warmup_epochs:
            if self.epoch == self.warmup_epochs:
                self.add_to_mean("sum", losses, present)
            return torch.where(present, logs, 0).sum()
        known = self.state["batches"] > 0  # a task without a mean loss is compared with 1
        logs = logs - safe_log(torch.where(known, self.mean("sum"), 1))
        chosen = torch.where(present, logs / self.mu, -torch.inf)
        objective = present.sum() * self.mu * chosen.logsumexp(0)
        return torch.where(present.any(), objective, losses.sum() * 0)
