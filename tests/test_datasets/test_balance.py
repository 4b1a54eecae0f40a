"""The sampler's ``balance`` and ``length``: shares, passes, keys, processes, resuming."""

from collections import Counter
from itertools import chain
from unittest import mock

import pytest
from mmengine.dataset import DefaultSampler

from vmt_mm.datasets import SeededSampler
from vmt_mm.errors import InputError

SIZES = (3, 10)


class Members:
    """Fake concatenation: a sampler only needs lengths."""

    def __init__(self, *sizes):
        self.datasets = [range(size) for size in sizes]

    def __len__(self):
        return sum(map(len, self.datasets))


def _draws(sampler, epoch):
    sampler.set_epoch(epoch)
    return list(sampler)


def _sampler(sizes=SIZES, seed=5, **kwargs):
    return SeededSampler(Members(*sizes), seed=seed, **kwargs)


def _shares(draws, first=SIZES[0]):
    few = sum(draw < first for draw in draws)
    return few, len(draws) - few


@pytest.mark.parametrize(
    ("options", "shares"),
    [
        (dict(balance="datasets"), (7, 6)),  # 13 samples; the odd one goes to the first
        (dict(balance=[2, 1]), (9, 4)),
        (dict(balance=[0.1, 0.3]), (3, 10)),
        (dict(balance="datasets", length=40), (20, 20)),
        (dict(balance=[1, 3], length=8), (2, 6)),
    ],
)
def test_shares_of_an_epoch(options, shares):
    sampler = _sampler(**options)
    assert len(sampler) == sum(shares) == options.get("length", 13)
    for epoch in range(4):
        assert _shares(_draws(sampler, epoch)) == shares


@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize("options", [dict(balance="datasets"), dict(balance=[1, 9], length=11)])
def test_samples_of_a_member_come_equally_often(options, shuffle):
    sampler = _sampler(shuffle=shuffle, **options)
    counts = Counter(dict.fromkeys(range(sum(SIZES)), 0))
    for epoch in range(7):
        counts.update(int(draw) for draw in _draws(sampler, epoch))
        for member in (range(3), range(3, 13)):  # up to one, after every epoch
            times = [counts[index] for index in member]
            assert max(times) - min(times) <= 1
    assert min(counts.values()) >= 1


def test_a_repeated_sample_has_another_key():
    sampler, seen = _sampler(balance="datasets", length=40), set()
    for epoch in range(3):
        draws = _draws(sampler, epoch)
        assert max(Counter(map(int, draws)).values()) == 7
        keys = {draw.key for draw in draws}
        assert len(keys) == len(draws)
        assert not keys & seen
        seen |= keys
        assert {(seed, of) for seed, of, _ in keys} == {(5, epoch)}
        assert all(draw.key[2] % 13 == draw for draw in draws)


def test_an_epoch_is_a_function_of_seed_and_epoch():
    one, other = _sampler(balance=[2, 1]), _sampler(balance=[2, 1])
    wanted = [_draws(one, epoch) for epoch in range(5)]
    for epoch in (4, 0, 2):  # whatever was drawn before
        draws = _draws(other, epoch)
        assert draws == wanted[epoch]
        assert [draw.key for draw in draws] == [draw.key for draw in wanted[epoch]]
    assert len({tuple(draws) for draws in wanted}) == 5
    assert _draws(_sampler(seed=6, balance=[2, 1]), 0) != wanted[0]
    # members are mixed, not concatenated
    assert 0 < sum(draw < 3 for draw in wanted[0][:6]) < 6


def test_passes_over_a_member_differ_in_order():
    sampler = _sampler((6,), balance=None, length=6, shuffle=True)
    with mock.patch.object(DefaultSampler, "__iter__", lambda self: iter(range(6))):
        orders = [tuple(map(int, _draws(sampler, epoch))) for epoch in range(4)]
    assert all(sorted(order) == list(range(6)) for order in orders)
    assert len(set(orders)) == 4


def test_a_shorter_and_a_longer_epoch_without_balance():
    sampler = _sampler(length=5)
    two = [_draws(sampler, epoch) for epoch in range(2)]
    assert [len(draws) for draws in two] == [5, 5]
    assert len({int(draw) for draw in chain(*two)}) == 10  # the second continues
    draws = _draws(_sampler(length=26), 0)
    assert set(Counter(map(int, draws)).values()) == {2}
    in_order = _draws(_sampler(length=5, shuffle=False), 1)
    assert in_order == [5, 6, 7, 8, 9]


def test_without_options_nothing_changes():
    sampler, plain = _sampler(), DefaultSampler(Members(*SIZES), seed=5)
    plain.set_epoch(2)
    draws = _draws(sampler, 2)
    assert draws == list(plain)
    assert all(draw.key == (5, 2, int(draw)) for draw in draws)


@pytest.mark.parametrize("length", [13, 16])
def test_processes_share_an_epoch(length):
    full = _draws(_sampler(balance="datasets", length=length), 3)
    parts = []
    for rank in range(3):
        with mock.patch("mmengine.dataset.sampler.get_dist_info", return_value=(rank, 3)):
            sampler = _sampler(balance="datasets", length=length)
        parts.append(_draws(sampler, 3))
        assert len(parts[-1]) == len(sampler) == -(-length // 3)
    together = [draw for step in zip(*parts, strict=True) for draw in step]
    assert [d.key for d in together[:length]] == [d.key for d in full]
    assert together[length:] == full[: len(together) - length]  # repeated to fill up


def test_skip_continues_within_an_epoch():
    full = _draws(_sampler(balance=[2, 1]), 3)
    sampler = _sampler(balance=[2, 1])
    sampler.skip(4)
    rest = _draws(sampler, 3)
    assert [draw.key for draw in rest] == [draw.key for draw in full[4:]]
    assert _draws(sampler, 3) == full  # for one epoch only


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(balance="tasks"), "`balance` must be 'datasets' or a list of positive weights"),
        (dict(balance=[1, 0]), "positive weights.*got \\[1, 0\\]"),
        (dict(balance=[1, True]), "positive weights"),
        (dict(balance=[1, float("inf")]), "positive weights"),
        (dict(balance=[1, 2, 3]), "got \\[1, 2, 3\\] for 2 member"),
        (dict(balance=3), "positive weights.*got 3"),
        (dict(length=0), "`length` must be a positive integer, got 0"),
        (dict(length=2.0), "`length` must be"),
        (dict(balance=[100, 1]), "13 samples has none of dataset 1"),
    ],
)
def test_invalid_options_are_refused(options, message):
    with pytest.raises(InputError, match=message) as caught:
        _sampler(**options)
    assert "\n" not in str(caught.value)


def test_a_single_dataset_cannot_be_balanced():
    with pytest.raises(InputError, match="member of a ConcatDataset, got 'datasets' for 0 member"):
        SeededSampler(range(4), seed=0, balance="datasets")
