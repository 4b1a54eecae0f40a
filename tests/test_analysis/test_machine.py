"""Arithmetic and memory are counted as they are."""

import sys

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

from vmt_mm.analysis import machine
from vmt_mm.analysis.machine import OperationCounter, matrix_product_rate, peak_memory
from vmt_mm.errors import InputError

MEGABYTE = 2**20


@pytest.mark.parametrize("train", [False, True])
def test_operations_are_those_of_pytorchs_counter(train):
    model = torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 3), torch.nn.Flatten(2), torch.nn.Linear(36, 5)
    )
    counts = []
    for counter in (OperationCounter(), FlopCounterMode(display=False)):
        with counter, torch.set_grad_enabled(train):
            out = model(torch.randn(2, 3, 8, 8))
            if train:
                out.sum().backward()
        counts.append(getattr(counter, "total", None) or counter.get_total_flops())
    assert counts[0] == counts[1] > 0


@pytest.mark.parametrize("how", ["grad", "no_grad", "inference_mode"])
def test_fused_attention_counts(how):
    query = torch.randn(2, 3, 49, 32, requires_grad=how == "grad")
    product = 2 * (2 * 3) * 49 * 49 * 32
    context = torch.enable_grad if how == "grad" else getattr(torch, how)
    with OperationCounter() as counter, context():
        out = F.scaled_dot_product_attention(query, query, query)
    assert counter.total == 2 * product
    if how == "grad":
        with OperationCounter() as counter:
            out.sum().backward()
        assert counter.total == 5 * product  # the scores once more, and four gradients


def test_a_gradient_within_a_forward_pass_counts():
    weight = torch.randn(4, 4, requires_grad=True)
    with OperationCounter() as counter:
        torch.autograd.grad((torch.ones(2, 4) @ weight).sum(), weight)
    assert counter.total == 2 * (2 * 2 * 4 * 4)


def test_matrix_products_have_a_rate():
    assert matrix_product_rate(torch.float32) > 1e8


@pytest.mark.parametrize(("rate", "largest"), [(1e7, 64), (1e9, 256), (1e13, 2048)])
def test_the_rate_is_known_soon_on_a_slow_processor(monkeypatch, rate, largest):
    sides, seconds = [], []

    def seconds_of(run):
        sides.append(len(run()))
        seconds.append(2 * sides[-1] ** 3 / rate)
        return seconds[-1]

    monkeypatch.setattr(machine, "seconds_of", seconds_of)
    assert matrix_product_rate(torch.float32) == pytest.approx(rate)
    assert sides[-1] == largest
    assert sum(seconds) < 2


def test_peak_memory_is_of_the_work_alone():
    if torch.cuda.is_available():
        pytest.skip("the resident set is measured on a CPU")
    small = peak_memory(np.ones, 1, np.uint8)
    large = peak_memory(np.ones, 300 * MEGABYTE, np.uint8)
    assert 250 * MEGABYTE < large - small < 400 * MEGABYTE


def test_work_that_fails_is_one_message():
    with pytest.raises(InputError, match="ended with exit code 3"):
        peak_memory(sys.exit, 3)
