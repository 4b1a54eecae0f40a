"""Memory of the C library."""

import ctypes
import os
import re
import sys
from pathlib import Path

#: Parameters of ``mallopt`` in glibc's malloc.h.
_TRIM_THRESHOLD, _MMAP_MAX = -1, -4


def keep_freed_memory() -> None:
    """Make glibc reuse freed memory for large tensors, instead of returning it to the system.

    Otherwise every training step on a CPU gets new pages, which the system first sets to zero. Does
    nothing on other systems, or if an environment variable ``MALLOC_...`` decides.
    """
    if sys.platform == "linux" and not any(name.startswith("MALLOC_") for name in os.environ):
        set_option = getattr(ctypes.CDLL(None), "mallopt", None)
        if set_option is not None:
            set_option(_MMAP_MAX, 0)
            set_option(_TRIM_THRESHOLD, 2**31 - 1)


def peak_resident() -> int | None:
    """Return the most bytes of memory that this process had at once; None if not on Linux."""
    if sys.platform != "linux":
        return None
    # ru_maxrss would include the peak of the parent process
    return 1024 * int(re.findall(r"VmHWM:\s*(\d+)", Path("/proc/self/status").read_text())[0])
