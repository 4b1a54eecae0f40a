"""Sampling whose augmentation does not depend on workers, processes or restarts."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sized
from contextlib import contextmanager
from itertools import islice

import numpy as np
import torch
from mmengine.dataset import DefaultSampler

from vmt_mm.registry import DATA_SAMPLERS


class Draw(int):
    """A sample's index that remembers which draw of the training it is.

    It is an ``int`` to every dataset, and survives the arithmetic by which wrappers such as
    mmengine's ``ConcatDataset`` and ``RepeatDataset`` find the index in an inner dataset. A wrapper
    that looks indices up in a list of its own loses the key: augmentation is then plainly random.

    Args:
        index: position in the dataset.
        key: (seed, epoch, index as drawn); what the augmentation is a function of.
    """

    key: tuple[int, int, int]

    def __new__(cls, index: int, key: tuple[int, int, int]) -> Draw:  # noqa: D102
        draw = super().__new__(cls, index)
        draw.key = key
        return draw

    def __getnewargs__(self) -> tuple:  # noqa: D105
        return int(self), self.key

    def __sub__(self, other: int) -> Draw:  # noqa: D105
        return Draw(int(self) - int(other), self.key)

    def __mod__(self, other: int) -> Draw:  # noqa: D105
        return Draw(int(self) % int(other), self.key)

    def another(self, size: int) -> Draw:
        """The draw that replaces this one when its sample cannot be used."""
        seed, epoch, index = self.key
        rng = np.random.default_rng([seed, epoch, index, 1])
        return Draw(int(rng.integers(size)), (seed, epoch, index + size))


@contextmanager
def random_state_of(index: int) -> Iterator[None]:
    """Seed the global generators by a :class:`Draw`, restore them afterwards.

    Python's, NumPy's and PyTorch's (of the CPU).

    So every transform, also of other libraries, becomes a function of (seed, epoch, index). A
    plain ``int`` leaves the generators as they are.
    """
    if not isinstance(index, Draw):
        yield
        return
    python_state, numpy_state = random.getstate(), np.random.get_state()
    torch_state = torch.get_rng_state()
    words = np.random.SeedSequence(index.key).generate_state(4)
    random.seed(words.tobytes())
    np.random.seed(words)
    torch.default_generator.manual_seed(int(words[0]))  # leaves the GPUs' generators alone
    try:
        yield
    finally:
        random.setstate(python_state)
        np.random.set_state(numpy_state)
        torch.set_rng_state(torch_state)


@DATA_SAMPLERS.register_module()
class DrawSampler(DefaultSampler):
    """mmengine's ``DefaultSampler`` whose indices are :class:`Draw` s.

    The order of an epoch is a function of (seed, epoch), the augmentation of a sample one of
    (seed, epoch, index), whatever the number of workers and after a resume as well.

    Args:
        dataset: the dataset.
        shuffle: whether to shuffle.
        seed: the same in all processes; None takes a random one that all share.
        round_up: repeat samples so that every process gets equally many.
    """

    def __init__(
        self,
        dataset: Sized,
        shuffle: bool = True,
        seed: int | None = None,
        round_up: bool = True,
    ) -> None:
        super().__init__(dataset, shuffle, seed, round_up)
        self._start = 0

    def skip(self, samples: int) -> None:
        """Leave out so many of this process's draws, in the next epoch that is iterated over."""
        self._start = samples

    def __iter__(self) -> Iterator[Draw]:
        """Yield this process's draws of the epoch."""
        start, self._start = self._start, 0
        for index in islice(super().__iter__(), start, None):
            yield Draw(index, (self.seed, self.epoch, index))
