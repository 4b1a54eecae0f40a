"""Sampling whose augmentation does not depend on workers, processes or restarts."""

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
    """A sample's index with the key of its random numbers: (seed, epoch, index as drawn).

    It survives the arithmetic of mmengine's ``ConcatDataset`` and ``RepeatDataset``; a wrapper that
    looks indices up in a list of its own loses the key, and augmentation is then plainly random.
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
        """The draw that replaces this one when its sample cannot be used."""
        seed, epoch, index = self.key
        rng = np.random.default_rng([seed, epoch, index, 1])
        return SeededIndex(int(rng.integers(size)), (seed, epoch, index + size))


@contextmanager
def seeded_by(index: int) -> Iterator[None]:
    """Seed the global generators by a :class:`SeededIndex`, not by an ``int``; restore them."""
    if not isinstance(index, SeededIndex):
        yield
        return
    with restored_generators():
        words = np.random.SeedSequence(index.key).generate_state(4)
        random.seed(words.tobytes())
        np.random.seed(words)
        torch.default_generator.manual_seed(int(words[0]))  # leaves the GPUs' generators alone
        yield


@DATA_SAMPLERS.register_module()
class SeededSampler(DefaultSampler):
    """mmengine's ``DefaultSampler`` whose indices are :class:`SeededIndex` s.

    The order of an epoch is a function of (seed, epoch), the augmentation of a sample one of
    (seed, epoch, index). With ``balance`` a member's samples come in passes that continue in the
    next epoch: so they come equally often, up to one.

    Args:
        dataset, shuffle, seed, round_up: see ``DefaultSampler``.
        balance: 'datasets' gives every member of a ``ConcatDataset`` the same share of an epoch; a
            list gives shares in proportion to these weights, one per member.
        length: samples of an epoch, over all processes; None takes as many as the dataset has.
    """

    def __init__(
        self,
        dataset: Sized,
        shuffle: bool = True,
        seed: int | None = None,
        round_up: bool = True,
        balance: str | Sequence[float] | None = None,
        length: int | None = None,
    ) -> None:
        if length is not None and (type(length) is not int or length < 1):
            raise InputError(f"SeededSampler: length must be a whole number > 0, got {length!r}")
        self._size, self._shares = len(dataset), []
        if balance is not None or length is not None:
            total = length or self._size
            self._shares = _shares_of(dataset, balance, total)
            dataset = range(total)  # mmengine orders the places of the epoch
        super().__init__(dataset, shuffle, seed, round_up)
        self._start = 0

    def skip(self, samples: int) -> None:
        """Leave out so many of this process's draws, in the next epoch that is iterated over."""
        self._start = samples

    def __iter__(self) -> Iterator[SeededIndex]:
        """Yield this process's draws of the epoch."""
        start, self._start = self._start, 0
        drawn = self._drawn() if self._shares else range(self._size)
        for place in islice(super().__iter__(), start, None):
            number = drawn[place]
            yield SeededIndex(number % self._size, (self.seed, self.epoch, number))

    def _drawn(self) -> list[int]:
        """Indices for the epoch's places; repeats of a sample are index + size * repeat."""
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
    """Size of each member, and its samples of an epoch by largest remainders."""
    members = [dataset] if balance is None else list(getattr(dataset, "datasets", ()))
    weights: Any = [1] * len(members) if balance in (None, "datasets") else balance
    listed = isinstance(weights, (list, tuple)) and 0 < len(weights) == len(members)
    if not listed or not all(type(w) in (int, float) and 0 < w < inf for w in weights):
        raise InputError(
            "SeededSampler: balance must be 'datasets' or a list of positive weights, one for each "
            f"member of a ConcatDataset; got {balance!r} for {len(members)} member(s)"
        )
    exact = [total * weight / sum(weights) for weight in weights]
    shares = [int(part) for part in exact]
    by_remainder = sorted(range(len(exact)), key=lambda i: shares[i] - exact[i])
    for i in by_remainder[: total - sum(shares)]:
        shares[i] += 1
    if 0 in shares:
        found = f"an epoch of {total} samples gives dataset {shares.index(0)} none"
        raise InputError(f"SeededSampler: {found}; set a greater length or weight")
    return [(len(member), share) for member, share in zip(members, shares, strict=True)]
