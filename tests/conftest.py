"""Fixtures of all tests."""
# ruff: noqa: E402 - libraries read the environment when they are imported

import os

# One thread: other test processes use the other cores. Small kernel caches: tests use thousands
# of shapes, each once.
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
from small_runs import full_run, scenes, small_run  # noqa: F401
from untrained import checkpoint, inferencer, model  # noqa: F401

_GLIBC = platform.libc_ver()[0] == "glibc"

#: Timeout of a slow test; that of others is in pyproject.toml.
_SLOW_SECONDS = 600

torch.set_num_threads(1)
cv2.setNumThreads(1)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give slow tests more time, and run their files first, so that no process ends with one."""
    slow = set()
    for item in items:
        if item.get_closest_marker("slow"):
            item.add_marker(pytest.mark.timeout(_SLOW_SECONDS))
            slow.add(item.path)
    items.sort(key=lambda item: item.path not in slow)


def pytest_collection_finish() -> None:
    """Exclude libraries and the list of tests from garbage collection: they stay until the end."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True, scope="module")
def memory():
    """Free memory after each file: compiled code, models in reference cycles, the free heap."""
    yield
    if "torch._dynamo" in sys.modules:
        torch.compiler.reset()
    gc.collect()
    if _GLIBC:
        ctypes.CDLL(None).malloc_trim(0)


@pytest.fixture(autouse=True)
def default_scope():
    """Use this project's default scope, as every config does."""
    init_default_scope("vmt_mm")


@pytest.fixture(autouse=True)
def seed():
    """Make random tests repeatable."""
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def run_tool():
    """Run a script of the repository within this process: ``run_tool(script, *arguments)``."""
    return commands.run_tool
