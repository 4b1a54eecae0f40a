"""Write files whole or not at all."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path

import cv2
import numpy as np

from vmt_mm.errors import InputError


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file atomically: a temporary file beside it, flushed, then renamed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, partial = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        os.chmod(partial, 0o644)
        os.replace(partial, path)
    except BaseException:
        Path(partial).unlink(missing_ok=True)
        raise


def write_json(path: Path, content: object) -> None:
    """Write JSON atomically."""
    write_bytes(path, (json.dumps(content, indent=2) + "\n").encode())


def write_image(path: Path, image: np.ndarray) -> None:
    """Write a grey (H, W) or RGB (H, W, 3) image atomically, in the format of the suffix.

    Raises:
        InputError: if it cannot be encoded so.
    """
    try:
        encoded, content = cv2.imencode(path.suffix, image if image.ndim == 2 else image[..., ::-1])
    except cv2.error:
        encoded = False
    if not encoded:
        raise InputError(f"{path}: cannot encode {image.dtype} of shape {image.shape}")
    write_bytes(path, content.tobytes())
