"""Random loss weighting (RLW): Lin et al., TMLR 2022, https://arxiv.org/abs/2111.10603."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from vmt_mm.errors import InputError
from vmt_mm.registry import WEIGHTINGS
from vmt_mm.weighting.weighting import Weighting, softmax_present


@WEIGHTINGS.register_module()
class RandomWeighting(Weighting):
    """Weights softmax(z) with a new normal z for each update; they add up to 1.

    ``seed`` determines all weights, in every process.
    """

    def __init__(self, tasks: Sequence[str], seed: int = 0) -> None:
        super().__init__(tasks)
        if not isinstance(seed, int) or seed < 0:
            raise InputError(f"model.weighting: `seed` must be an integer >= 0, got {seed!r}")
        self.seed = seed
        self.state = dict(updates=0, logits=torch.zeros(len(self.tasks)))

    def begin_update(self, losses: Tensor, present: Tensor) -> None:
        """Draw new weights."""
        words = np.random.SeedSequence((self.seed, self.state["updates"])).generate_state(1)
        generator = torch.Generator().manual_seed(int(words[0]))  # on the CPU: the same everywhere
        logits = torch.randn(len(self.tasks), generator=generator)
        self.state = dict(updates=self.state["updates"] + 1, logits=logits.to(losses))

    def objective(self, losses: Tensor, present: Tensor) -> Tensor:
        """Return the weighted sum of the tasks that are present."""
        return (softmax_present(self.state["logits"], present) * losses).sum()
