"""Read raw files of arrays; what cannot be read is one InputError that names the file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import scipy.io

from vmt_mm.errors import InputError


def read_mat(path: Path, key: str) -> np.ndarray:
    """Read a variable of a MATLAB file (version 7 or older).

    Raises:
        InputError: if the file is damaged or has no such variable.
    """
    try:
        content = scipy.io.loadmat(path, variable_names=[key])
    except MemoryError:
        raise
    except Exception as error:  # a damaged file raises whatever its bytes happen to mean
        reason = str(error).split("\n")[0] or type(error).__name__
        raise InputError(f"{path}: cannot be read as a MATLAB file ({reason})") from None
    if key not in content:
        raise InputError(f"{path}: has no variable {key!r}")
    return content[key]


def read_npy(path: Path, channels: int = 1) -> np.ndarray:
    """Read an array of numbers (H, W), or (H, W, channels) if there is more than one.

    Raises:
        InputError: if the file is damaged or holds something else.
    """
    try:
        values = np.load(path, allow_pickle=False)
    except (EOFError, OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read as a NumPy array ({error})") from None
    if values.ndim == 3 and channels == 1:
        values = values[..., 0] if values.shape[2] == 1 else values
    shape = "(H, W)" if channels == 1 else f"(H, W, {channels})"
    if values.ndim != (2 if channels == 1 else 3) or values.shape[2:] not in ((), (channels,)):
        raise InputError(f"{path}: expected numbers of shape {shape}, got {values.shape}")
    if values.dtype.kind not in "buif":
        raise InputError(f"{path}: expected numbers, got {values.dtype}")
    return values
