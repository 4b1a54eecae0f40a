"""Sampling whose augmentation does not depend on workers, processes or restarts."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence, Sized
from contextlib import contextmanager
from itertools import islice
from math import inf

import numpy as np
import torch
from mmengine.dataset import DefaultSampler

from vmt_mm.errors import InputError
from vmt_mm.registry import DATA_SAMPLERS


class SeededIndex(int):
    """A sample's index that remembers which draw of the training it is.

    It is an ``int`` to every dataset, and survives the arithmetic by which wrappers such as
    mmengine's ``ConcatDataset`` and ``RepeatDataset`` find the index in an inner dataset. A wrapper
    that looks indices up in a list of its own loses the key: augmentation is then plainly random.

    Args:
        index: position in the dataset.
        key: (seed, epoch, index as drawn); what the augmentation is a function of. Where a sample
            comes several times in an epoch, the sampler adds the dataset's size each time.
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
def random_state_of(index: int) -> Iterator[None]:
    """Seed the global generators by a :class:`SeededIndex`, restore them afterwards.

    Python's, NumPy's and PyTorch's (of the CPU).

    So every transform, also of other libraries, becomes a function of (seed, epoch, index). A
    plain ``int`` leaves the generators as they are.
    """
    if not isinstance(index, SeededIndex):
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
class SeededSampler(DefaultSampler):
    """mmengine's ``DefaultSampler`` whose indices are :class:`SeededIndex` s.

    The order of an epoch is a function of (seed, epoch), the augmentation of a sample one of
    (seed, epoch, index), whatever the number of workers and after a resume as well. A sample that
    comes several times in an epoch is augmented anew each time.

    With ``balance`` each member of a ``ConcatDataset`` gets its share of an epoch. A member's
    samples come in passes, each in an order of its own, that go on from one epoch to the next: so
    the samples of a member come equally often, up to one, however few of them an epoch takes.

    Args:
        dataset: the dataset.
        shuffle: whether to shuffle.
        seed: the same in all processes; None takes a random one that all share.
        round_up: repeat samples so that every process gets equally many.
        balance: 'datasets' gives every member of a ``ConcatDataset`` the same share of an epoch; a
            list gives shares in proportion to these weights, one a member; None takes every
            sample once.
        length: samples of an epoch, over all processes; None takes as many as the dataset has,
            which is the sum over the members.

    Raises:
        InputError: if the dataset has no members to balance, or the weights or the length do not
            fit it.
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
            raise InputError(
                f"SeededSampler: length must be a positive whole number, got {length!r}"
            )
        self._size = len(dataset)
        self._shares: list[tuple[int, int]] | None = None
        if balance is not None or length is not None:
            sizes, weights = _members(dataset, balance)
            total = self._size if length is None else length
            self._shares = list(zip(sizes, _divide(total, weights), strict=True))
            dataset = range(total)  # mmengine's part is to order places of the epoch
        super().__init__(dataset, shuffle, seed, round_up)
        self._start = 0

    def skip(self, samples: int) -> None:
        """Leave out so many of this process's draws, in the next epoch that is iterated over."""
        self._start = samples

    def __iter__(self) -> Iterator[SeededIndex]:
        """Yield this process's draws of the epoch."""
        start, self._start = self._start, 0
        drawn = range(self._size) if self._shares is None else self._drawn()
        for place in islice(super().__iter__(), start, None):
            number = drawn[place]
            yield SeededIndex(number % self._size, (self.seed, self.epoch, number))

    def _drawn(self) -> list[int]:
        """Fill the epoch's places: index + size of the dataset * times that it could have come."""
        drawn, offset = [], 0
        for member, (size, share) in enumerate(self._shares):
            first = self.epoch * share // size
            for turn in range(first, ((self.epoch + 1) * share - 1) // size + 1):
                order = np.arange(size)
                if self.shuffle:
                    order = np.random.default_rng([self.seed, member, turn, 2]).permutation(size)
                begin = max(0, self.epoch * share - turn * size)
                end = (self.epoch + 1) * share - turn * size
                part = order[begin:end] + offset + (turn - first) * self._size
                drawn.extend(part.tolist())
            offset += size
        return drawn


def _members(
    dataset: Sized, balance: str | Sequence[float] | None
) -> tuple[list[int], Sequence[float]]:
    """Sizes and weights of what shares an epoch; the whole dataset where nothing is balanced."""
    if balance is None:
        return [len(dataset)], [1]
    members = getattr(dataset, "datasets", None)
    if members is None:
        raise InputError(
            f"SeededSampler: balance={balance!r} balances the members of a ConcatDataset, but the "
            f"data set is a {type(dataset).__name__}"
        )
    weights = [1] * len(members) if balance == "datasets" else balance
    if not isinstance(weights, (list, tuple)) or not all(
        type(weight) in (int, float) and 0 < weight < inf for weight in weights
    ):
        raise InputError(
            "SeededSampler: balance must be 'datasets' or a list of positive weights, got "
            f"{balance!r}"
        )
    if len(weights) != len(members):
        raise InputError(
            f"SeededSampler: balance lists {len(weights)} weight(s), {list(weights)}, for "
            f"{len(members)} data sets; give one a data set"
        )
    return [len(member) for member in members], weights


def _divide(total: int, weights: Sequence[float]) -> list[int]:
    """Divide ``total`` in proportion to the weights, by largest remainders; the first wins a tie.

    Raises:
        InputError: if one gets nothing, every epoch anew.
    """
    exact = [total * weight / sum(weights) for weight in weights]
    shares = [int(part) for part in exact]
    by_remainder = sorted(range(len(exact)), key=lambda i: shares[i] - exact[i])
    for i in by_remainder[: total - sum(shares)]:
        shares[i] += 1
    if 0 in shares:
        raise InputError(
            f"SeededSampler: an epoch of {total} samples gives data set {shares.index(0)} of "
            f"{len(shares)} none by the weights {list(weights)}; set a greater length or weight"
        )
    return shares
