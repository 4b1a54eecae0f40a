"""Measurements of time and memory."""

import os

import numpy as np
import pytest
import torch

from vmt_mm.analysis.timing import matrix_product_rate, peak_memory
from vmt_mm.errors import InputError

MEGABYTE = 2**20


def test_matrix_products_have_a_rate():
    assert matrix_product_rate(torch.float32) > 1e8


@pytest.mark.processes
def test_peak_memory_is_that_of_the_work_only():
    if torch.cuda.is_available():
        pytest.skip("the resident set is measured on a CPU")
    small = peak_memory(np.ones, 1, np.uint8)
    large = peak_memory(np.ones, 300 * MEGABYTE, np.uint8)
    assert 250 * MEGABYTE < large - small < 400 * MEGABYTE


@pytest.mark.processes
def test_work_that_fails_is_one_message():
    with pytest.raises(InputError, match="the process that measures memory was killed"):
        peak_memory(os._exit, 3)
