"""Geometric mean of the losses, and the sum of their logarithms, which has its direction."""

import torch
from torch import Tensor

from vmt_mm.registry import WEIGHTINGS
from vmt_mm.weighting.weighting import Weighting, safe_log


@WEIGHTINGS.register_module()
class GeometricMean(Weighting):
    """Geometric loss strategy (GLS): (product of L_i)^(1/T).

    Chennupati et al., CVPR Workshops 2019, https://arxiv.org/abs/1904.08492, Eq. 3.
    """

    takes_logarithms = True

    def objective(self, losses: Tensor, present: Tensor) -> Tensor:
        """Return the geometric mean of the tasks that are present; 0 without any."""
        logs = torch.where(present, safe_log(losses), 0)
        return (logs.sum() / present.sum().clamp(min=1)).exp() * present.any()


@WEIGHTINGS.register_module()
class LogSum(Weighting):
    """Sum of log L_i: the direction of :class:`GeometricMean`, with weights 1 / L_i.

    Its gradients do not shrink with the losses.
    """

    takes_logarithms = True

    def objective(self, losses: Tensor, present: Tensor) -> Tensor:
        """Return the sum over the tasks that are present."""
        return torch.where(present, safe_log(losses), 0).sum()
