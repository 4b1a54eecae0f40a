"""A data loader that continues within an epoch."""

from itertools import islice
from typing import Any

import pytest
import torch
from mmengine.dataset import InfiniteSampler
from torch.utils.data import DataLoader

from vmt_mm.datasets import SeededSampler
from vmt_mm.engine.loops import IterBasedTrainLoop, batches_from


class Numbers(torch.utils.data.Dataset):
    """The numbers 0, 1, ...; records reads."""

    def __init__(self):
        self.read = []

    def __len__(self):
        return 14

    def __getitem__(self, index):
        self.read.append(index)
        return index, getattr(index, "key", None)


@pytest.mark.parametrize("skips", [True, False])
@pytest.mark.parametrize("drop_last", [True, False])
def test_skipping_gives_what_reading_and_discarding_gives(monkeypatch, skips, drop_last):
    if not skips:  # such as mmengine's
        monkeypatch.delattr(SeededSampler, "skip")
    for position in range(5):
        data = Numbers()
        loader = DataLoader(
            data,
            batch_size=3,
            sampler=SeededSampler(data, seed=5),
            drop_last=drop_last,
            collate_fn=list,
        )
        loader.sampler.set_epoch(3)
        full = list(loader)
        assert len(full) == (4 if drop_last else 5)
        data.read.clear()
        assert list(batches_from(loader, position)) == full[position:]
        expected = [index for batch in full[position if skips else 0 :] for index, _ in batch]
        assert data.read == expected  # with skip, the others are not read
        assert list(batches_from(loader, 0)) == full  # the next epoch is complete again
        assert list(loader) == full


def test_skipping_without_a_batch_size():
    data = Numbers()
    sampler = torch.utils.data.BatchSampler(SeededSampler(data, seed=5), 3, drop_last=True)
    loader = DataLoader(data, batch_sampler=sampler, collate_fn=list)
    full = list(loader)
    assert list(batches_from(loader, 2)) == full[2:]
    assert list(loader) == full


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("persistent", [False, True])
@pytest.mark.parametrize("batches", ["plain", "own sampler"])
def test_an_infinite_stream_begins_where_the_loop_does(workers, persistent, batches):
    # mmengine 0.10.7 starts an iterator first, whose workers prefetch batches
    def make() -> DataLoader:
        data = Numbers()
        sampler = InfiniteSampler(data, seed=5)
        how = dict(num_workers=workers, persistent_workers=persistent and workers > 0)
        if batches == "plain":
            return DataLoader(data, batch_size=3, sampler=sampler, collate_fn=list, **how)
        grouped = torch.utils.data.BatchSampler(sampler, 3, drop_last=True)
        return DataLoader(data, batch_sampler=grouped, collate_fn=list, **how)

    full = list(islice(make(), 9))
    for position in (0, 1, 5):
        loader = make()
        before = iter(loader)
        next(before)
        assert list(islice(batches_from(loader, position), 4)) == full[position : position + 4]


@pytest.mark.parametrize("ahead", [1, 2, 3])
def test_reading_ahead_keeps_the_order_of_the_passes(ahead):
    """Gradient accumulation reads the batches of an update before the loop counts the first one."""
    data = Numbers()
    loader = DataLoader(data, 3, sampler=SeededSampler(data, seed=5), collate_fn=list)
    loop: Any = IterBasedTrainLoop.__new__(IterBasedTrainLoop)
    loop.dataloader = loader
    expected = []
    for epoch in range(4):
        loader.sampler.set_epoch(epoch)
        expected += list(loader)
    for start in (0, 3, 7):
        loop._iter, found, batches = start, [], loop._batches()
        while len(found) < 12:
            found += islice(batches, ahead)
            loop._iter = start + len(found)
        assert found == expected[start : start + len(found)]
