"""Sampling with augmentation that is independent of workers, processes and restarts."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence, Sized
from contextlib import contextmanager
from itertools import islice
from math import inf
from typing import Any

import numpy as np
import torch
from mmengine.dataset import DefaultSampler

from vmt_mm.errors import InputError
from vmt_mm.registry import DATA_SAMPLERS
from vmt_mm.utils.modules import restored_generators


class SeededIndex(int):
    """A sample's index, with the seed of its augmentation: key (seed, epoch, drawn index).

    The key survives the arithmetic of mmengine's ``ConcatDataset`` and ``RepeatDataset``. Wrappers
    that map indices through a list lose it; augmentation is then random, not reproducible.
    """

    key: tuple[int, int, int]

    def __new__(cls, index: int, key: tuple[int, int, int]) -> SeededIndex:  # noqa: D102
        draw = super().__new__(cls, index)
        draw.key = key
        return draw

    def __getnewargs__(self) -> tuple:  # noqa: D105
        return int(self), self.key

    def __sub__(self, other: int) -> SeededIndex:  # noqa: D105
        return SeededIndex(int(self) - int(other), self.key)

    def __mod__(self, other: int) -> SeededIndex:  # noqa: D105
        return SeededIndex(int(self) % int(other), self.key)

    def another(self, size: int) -> SeededIndex:
        """Draw the index that replaces an unusable sample."""
        seed, epoch, index = self.key
        rng = np.random.default_rng([seed, epoch, index, 1])
        return SeededIndex(int(rng.integers(size)), (seed, epoch, index + size))


@contextmanager
def seeded_by(index: int) -> Iterator[None]:
    """Seed the global random generators with a :class:`SeededIndex`, then restore them."""
    if not isinstance(index, SeededIndex):
        yield
        return
    with restored_generators():
        words = np.random.SeedSequence(index.key).generate_state(4)
        random.seed(words.tobytes())
        np.random.seed(words)
        torch.default_generator.manual_seed(int(words[0]))  # does not touch the GPUs' generators
        yield


@DATA_SAMPLERS.register_module()
class SeededSampler(DefaultSampler):
    """mmengine's ``DefaultSampler`` with reproducible augmentation and optional balancing.

    The order of an epoch depends only on (seed, epoch); the augmentation of a sample, only on
    (seed, epoch, index). With ``balance`` or ``length``, the passes over a member continue across
    epochs, so that counts of its samples differ by one at most.

    Args:
        balance: shares of a ``ConcatDataset``'s members in an epoch: 'datasets' for equal shares,
            or one positive weight per member; None does not balance.
        length: samples per epoch over all processes; None means the size of the dataset.
        views: number of different augmentations per sample, which repeat after as many epochs, so
            that a feature cache can keep their features; None means a new one in every epoch.

    The other arguments are those of ``DefaultSampler``.

    Example::

        sampler=dict(type="SeededSampler", shuffle=True, balance=[2, 1], length=6000)
    """

    def __init__(
        self,
        dataset: Sized,
        shuffle: bool = True,
        seed: int | None = None,
        round_up: bool = True,
        balance: str | Sequence[float] | None = None,
        length: int | None = None,
        views: int | None = None,
    ) -> None:
        if views is not None and (type(views) is not int or views < 1):
            raise InputError(f"SeededSampler: `views` must be a positive integer, got {views!r}")
        if length is not None and (type(length) is not int or length < 1):
            raise InputError(f"SeededSampler: `length` must be a positive integer, got {length!r}")
        self._size, self._shares, self._views = len(dataset), [], views
        if balance is not None or length is not None:
            total = length or self._size
            self._shares = _shares_of(dataset, balance, total)
            dataset = range(total)  # mmengine permutes the positions of the epoch
        super().__init__(dataset, shuffle, seed, round_up)
        self._start = 0

    def skip(self, samples: int) -> None:
        """Skip this process's first ``samples`` draws of the next iteration, to resume an epoch."""
        self._start = samples

    def __iter__(self) -> Iterator[SeededIndex]:
        """Yield this process's indices for the epoch."""
        start, self._start = self._start, 0
        drawn = self._drawn() if self._shares else range(self._size)
        for place in islice(super().__iter__(), start, None):
            number = drawn[place]
            index = number % self._size
            key = (self.epoch, number) if self._views is None else (self.epoch % self._views, index)
            yield SeededIndex(index, (self.seed, *key))

    def _drawn(self) -> list[int]:
        """Return indices for this epoch; repeats of a sample are index + len(dataset) * repeat."""
        drawn, offset = [], 0
        for member, (size, share) in enumerate(self._shares):
            begin, end = self.epoch * share, (self.epoch + 1) * share
            for repeat, turn in enumerate(range(begin // size, (end - 1) // size + 1)):
                order = np.arange(size)
                if self.shuffle:
                    order = np.random.default_rng([self.seed, member, turn, 2]).permutation(size)
                part = order[max(0, begin - turn * size) : end - turn * size]
                drawn.extend((part + offset + repeat * self._size).tolist())
            offset += size
        return drawn


def _shares_of(
    dataset: Sized, balance: str | Sequence[float] | None, total: int
) -> list[tuple[int, int]]:
    """Return (size, samples per epoch) per member; rounding by largest remainders."""
    members = [dataset] if balance is None else list(getattr(dataset, "datasets", ()))
    weights: Any = [1] * len(members) if balance in (None, "datasets") else balance
    listed = isinstance(weights, (list, tuple)) and 0 < len(weights) == len(members)
    if not listed or not all(type(w) in (int, float) and 0 < w < inf for w in weights):
        raise InputError(
            "SeededSampler: `balance` must be 'datasets' or a list of positive weights, one per "
            f"member of a ConcatDataset, got {balance!r} for {len(members)} member(s)"
        )
    exact = [total * weight / sum(weights) for weight in weights]
    shares = [int(part) for part in exact]
    by_remainder = sorted(range(len(exact)), key=lambda i: shares[i] - exact[i])
    for i in by_remainder[: total - sum(shares)]:
        shares[i] += 1
    if 0 in shares:
        found = f"an epoch of {total} samples has none of dataset {shares.index(0)}"
        raise InputError(f"SeededSampler: {found}; increase `length` or its weight")
    return [(len(member), share) for member, share in zip(members, shares, strict=True)]
