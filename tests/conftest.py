"""Fixtures of all tests."""

import pytest
import torch
from mmengine.registry import init_default_scope


@pytest.fixture(autouse=True)
def default_scope():
    """Look types up here first, as every config says."""
    init_default_scope("vmt_mm")


@pytest.fixture(autouse=True)
def seed():
    """Make random tests repeatable."""
    torch.manual_seed(0)
