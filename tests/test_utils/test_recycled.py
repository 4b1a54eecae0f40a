"""Memory of results is given again when nothing refers to them, and never before."""

import gc

import pytest
import torch

from vmt_mm.utils import recycled
from vmt_mm.utils.recycled import RecycledMemory

LIKE = torch.zeros(1)


@pytest.fixture
def memory(monkeypatch):
    monkeypatch.setattr(recycled, "_MINIMUM", 64)
    return RecycledMemory()


def empty(memory, *shape, dtype=torch.float32):
    return memory.empty(*shape, like=LIKE, dtype=dtype)


def test_memory_comes_again_when_the_last_view_is_gone(memory):
    first = empty(memory, 4, 25)
    place, view = first.data_ptr(), first[1:].view(-1).detach()
    del first
    gc.collect()
    second = empty(memory, 4, 25)
    assert second.data_ptr() != place
    view.fill_(1)
    second.fill_(2)
    assert (view == 1).all()
    del view
    third = empty(memory, 2, 50)
    assert third.data_ptr() == place
    assert third.shape == (2, 50)
    assert third.is_contiguous()


def test_another_size_or_type_gets_what_fits(memory):
    empty(memory, 4, 25)
    empty(memory, 8, 25)
    small, large = empty(memory, 200, dtype=torch.bfloat16), empty(memory, 100, dtype=torch.double)
    assert small.dtype == torch.bfloat16
    assert small.numel() == 200
    assert large.numel() == 100
    assert not memory._free


def test_only_so_much_is_kept(memory):
    held = [empty(memory, 100) for _ in range(3 * recycled._KEPT)]
    held.clear()
    assert len(memory._free) == recycled._KEPT
    empty(memory, 101)  # other sizes are asked for from now on
    assert [block.nbytes for block in memory._free] == [404]


def test_small_results_and_other_devices_are_pytorchs(memory):
    assert empty(memory, 3).untyped_storage().nbytes() == 12
    assert not memory._free
    other = memory.empty(99, like=torch.zeros(1, device="meta"), dtype=torch.float16)
    assert other.device.type == "meta"
    assert other.dtype == torch.float16
