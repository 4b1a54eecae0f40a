"""Fixtures of all tests."""

import ctypes
import gc
import platform
import sys

import pytest
import torch
from mmengine.registry import init_default_scope

_GLIBC = platform.libc_ver()[0] == "glibc"


@pytest.fixture(autouse=True, scope="module")
def memory():
    """Give back what the tests of a file held: compiled code, models in cycles, the free heap."""
    yield
    if "torch._dynamo" in sys.modules:
        torch.compiler.reset()
    gc.collect()
    if _GLIBC:
        ctypes.CDLL(None).malloc_trim(0)


@pytest.fixture(autouse=True)
def default_scope():
    """Look types up here first, as every config says."""
    init_default_scope("vmt_mm")


@pytest.fixture(autouse=True)
def seed():
    """Make random tests repeatable."""
    torch.manual_seed(0)
