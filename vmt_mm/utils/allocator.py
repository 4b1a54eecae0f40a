"""How the process gets memory from the system, on CPUs."""

from __future__ import annotations

import ctypes
import platform

import torch

#: glibc's numbers of its settings (``man mallopt``).
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
#: Bytes; older versions take no more than the second for what is mapped on its own.
_LIMITS = (1 << 30, 1 << 25)


def keep_freed_memory() -> bool:
    """Let the C library keep freed memory for the next allocation, as PyTorch itself does on GPUs.

    Otherwise it gives large tensors' memory back at once and gets it anew, and the system clears
    every page at its first use, which takes longer than many operations on it. The process then
    stays as large as it once was. A setting of the whole process; linux with glibc only.

    Returns:
        Whether the setting was made: not where a GPU does the work, or there is no glibc.
    """
    if torch.cuda.is_available() or platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    # each of the two ends glibc's own adaptation of the other
    trims = mallopt(_TRIM_THRESHOLD, _LIMITS[0])
    return bool(trims and any(mallopt(_MMAP_THRESHOLD, limit) for limit in _LIMITS))
