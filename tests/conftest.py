"""Fixtures of all tests."""
# ruff: noqa: E402 - libraries read the environment when they are imported

import os

# A core may serve another test process. Kernels that libraries keep, one for every shape, are of
# use to runs that meet few shapes; tests meet thousands, once.
for name, value in dict(
    OMP_NUM_THREADS="1", ONEDNN_PRIMITIVE_CACHE_CAPACITY="32", LRU_CACHE_CAPACITY="32"
).items():
    os.environ.setdefault(name, value)

import ctypes
import gc
import platform
import sys

import commands
import cv2
import pytest
import torch
from configs_read_once import configs_read_once  # noqa: F401
from mmengine.registry import init_default_scope
from small_runs import scenes, small_run, whole  # noqa: F401
from untrained import checkpoint, inferencer, model  # noqa: F401

_GLIBC = platform.libc_ver()[0] == "glibc"

#: The limit of a slow test; pyproject.toml has that of others.
_SLOW_SECONDS = 600

torch.set_num_threads(1)
cv2.setNumThreads(1)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give slow tests more time; begin with their files, so that no process ends with one."""
    slow = set()
    for item in items:
        if item.get_closest_marker("slow"):
            item.add_marker(pytest.mark.timeout(_SLOW_SECONDS))
            slow.add(item.path)
    items.sort(key=lambda item: item.path not in slow)


def pytest_collection_finish() -> None:
    """Spare the collector what stays for the whole run: the libraries and the list of tests."""
    gc.collect()
    gc.freeze()


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


@pytest.fixture(scope="session")
def run_tool():
    """Run a script of the repository within this process: ``run_tool(script, *arguments)``."""
    return commands.run_tool
