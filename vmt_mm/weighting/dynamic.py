"""Dynamic weight average (DWA): Liu et al., CVPR 2019, https://arxiv.org/abs/1803.10704, Eq. 7."""

from collections.abc import Sequence

import torch
from torch import Tensor

from vmt_mm.registry import WEIGHTINGS
from vmt_mm.weighting.weighting import Weighting, check_positive


@WEIGHTINGS.register_module()
class DynamicWeightAverage(Weighting):
    """Weights T softmax(r_i / temperature), where r_i is the ratio of the last two epochs' losses.

    The weights are 1 in the first two epochs, and r_i is 1 for a task without a mean loss in both.
    """

    def __init__(self, tasks: Sequence[str], temperature: float = 2.0) -> None:
        super().__init__(tasks)
        check_positive(temperature=temperature)
        self.temperature = temperature
        unknown = torch.full((len(self.tasks),), torch.nan)
        self.state = dict(epoch=0, last=unknown, before=unknown)
        self.begin_mean("sum")

    def begin_update(self, losses: Tensor, present: Tensor) -> None:
        """Close an epoch that is over: its mean losses become the last ones."""
        if self.epoch > self.state["epoch"]:
            self.state |= dict(epoch=self.epoch, last=self.mean("sum"), before=self.state["last"])
            self.begin_mean("sum")

    def objective(self, losses: Tensor, present: Tensor) -> Tensor:
        """Return the weighted sum; add up the losses of the epoch."""
        self.add_to_mean("sum", losses, present)
        ratio = (self.state["last"] / self.state["before"]).nan_to_num(nan=1.0, posinf=1.0)
        weights = len(self.tasks) * (ratio / self.temperature).softmax(0)
        return (weights * losses).sum()
