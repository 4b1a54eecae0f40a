"""Freed memory stays with the process, where that is wanted."""

import platform
import subprocess
import sys

import pytest
import torch

from vmt_mm.utils import allocator

#: Prints how many pages the system had to give for large tensors once it has settled.
SCRIPT = """
import resource, sys, torch
from vmt_mm.utils.allocator import keep_freed_memory
if sys.argv[1] == "keep":
    assert keep_freed_memory()
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(12):
    torch.ones(12 << 20)
before = faults()
for _ in range(3):
    torch.ones(12 << 20)
print(faults() - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="a setting of glibc")
@pytest.mark.skipif(torch.cuda.is_available(), reason="nothing is set where a GPU does the work")
def test_memory_is_not_given_back():
    pages = {
        how: int(subprocess.check_output([sys.executable, "-c", SCRIPT, how], text=True))
        for how in ("keep", "usual")
    }
    assert 10 * pages["keep"] < pages["usual"], pages


def test_nothing_is_set_beside_a_gpu_or_without_glibc(monkeypatch):
    monkeypatch.setattr(allocator.platform, "libc_ver", lambda: ("glibc", "2.36"))
    monkeypatch.setattr(allocator.torch.cuda, "is_available", lambda: True)
    assert not allocator.keep_freed_memory()
    monkeypatch.undo()
    monkeypatch.setattr(allocator.platform, "libc_ver", lambda: ("", ""))
    assert not allocator.keep_freed_memory()
