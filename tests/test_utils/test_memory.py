"""Pages that large allocations take; no other file looks at the C library's memory."""

import subprocess
import sys

import pytest

CODE = """
import resource
from vmt_mm.utils.memory import keep_freed_memory
keep_freed_memory()
for _ in range(5):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    bytes(bytearray(1 << 26))
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(**environment: str) -> int:
    """Page faults of the last of five allocations of 128 MiB, all freed before the next."""
    command = [sys.executable, "-c", CODE]
    found = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return int(found.stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="glibc is the C library of Linux")
def test_freed_memory_is_reused_unless_the_environment_decides() -> None:
    assert faults() < 100
    assert faults(MALLOC_TOP_PAD_="131072") > 10000
