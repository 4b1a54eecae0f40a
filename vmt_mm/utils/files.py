"""Write files atomically; check before any work that outputs can be written and harm no input."""

from __future__ import annotations

import errno
import json
import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np

from vmt_mm.errors import InputError

#: Errors of a full disk.
DISK_FULL = (errno.ENOSPC, errno.EDQUOT)
#: Suffix of files that are being written; what a killed process leaves behind ends with it.
PARTIAL = ".part"


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Yield a temporary file to write, which replaces ``path`` unless there is an error."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=PARTIAL)
    os.close(handle)
    partial = Path(name)
    try:
        yield partial
        with partial.open("rb+") as stream:
            os.fsync(stream.fileno())
        os.chmod(partial, 0o644)
        os.replace(partial, path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def remove_partial(folder: Path) -> list[Path]:
    """Remove what killed writers left in ``folder``; return it."""
    left = sorted(folder.glob(f".*.{'[a-z0-9_]' * 8}{PARTIAL}"))  # as `tempfile` names them
    for path in left:
        path.unlink(missing_ok=True)
    return left


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file atomically."""
    with atomic_write(path) as partial:
        partial.write_bytes(content)


def write_json(path: Path, content: object) -> None:
    """Write JSON atomically."""
    write_bytes(path, (json.dumps(content, indent=2) + "\n").encode())


def encode_image(image: np.ndarray, suffix: str, name: str | Path = "image") -> bytes:
    """Encode a grey (H, W) or RGB (H, W, 3) image; InputError names ``name`` if it cannot be."""
    try:
        encoded, content = cv2.imencode(suffix, image if image.ndim == 2 else image[..., ::-1])
    except cv2.error:
        encoded, content = False, image
    if not encoded:
        raise InputError(f"{name}: cannot encode {image.dtype} of shape {image.shape}")
    return content.tobytes()


def write_image(path: Path, image: np.ndarray) -> None:
    """Write a grey (H, W) or RGB (H, W, 3) image atomically, in the format of the suffix."""
    write_bytes(path, encode_image(image, path.suffix, path))


def check_folder_target(folder: Path, name: str = "") -> None:
    """Raise InputError if files could not be written into a folder, which the option names."""
    folder = folder.absolute()
    nearest = next(place for place in (folder, *folder.parents) if place.exists())
    if not nearest.is_dir() or not os.access(nearest, os.W_OK | os.X_OK):
        why = "may not be written to" if nearest.is_dir() else "is not a folder"
        raise InputError(f"{name} {folder}: nothing can be written there, {nearest} {why}".strip())


def check_file_target(path: Path, name: str = "") -> None:
    """As :func:`check_folder_target`, for a file."""
    if path.is_dir():
        raise InputError(f"{name} {path}: is a folder; name a file".strip())
    check_folder_target(path.absolute().parent, name)


def check_image_target(path: Path, name: str = "") -> None:
    """As :func:`check_file_target`; the suffix must be that of an image format, too."""
    if not (path.suffix and cv2.haveImageWriter(str(path))):
        raise InputError(f"{name} {path}: no image format has this suffix; take .png".strip())
    check_file_target(path, name)


def check_outputs(
    outputs: Mapping[str, str | Path | None], inputs: Iterable[object], may_hold: bool = False
) -> None:
    """Raise InputError if an output (option -> path or None) is, lies in, or holds an input.

    Inputs that are no paths are left out; ``may_hold`` allows outputs that hold what is read.
    """
    paths = [i for i in inputs if isinstance(i, (str, Path)) and str(i) and "://" not in str(i)]
    read = [(path, place) for path in paths for place in _real_places(path)]
    for name, output in outputs.items():
        for real in () if output is None else _real_places(output):
            for path, place in read:
                if real.is_relative_to(place) or (not may_hold and place.is_relative_to(real)):
                    problem = f"would overwrite {path}, or files in it, which is read"
                    raise InputError(f"{name} {output}: {problem}; choose another place")


def _real_places(path: str | Path) -> list[Path]:
    """Where a path leads, and where links in a folder lead."""
    path = Path(path).expanduser()
    links = [place for place in path.iterdir() if place.is_symlink()] if path.is_dir() else []
    return [place.resolve() for place in (path, *links)]
