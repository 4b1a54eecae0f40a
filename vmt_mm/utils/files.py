"""Write files atomically; check that outputs can be written and do not overwrite inputs."""

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
#: Suffix of files that are being written; a killed process may leave some behind.
PARTIAL = ".part"


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Yield a temporary file to write; it replaces ``path`` unless there is an error."""
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
    """Remove the files that killed writers left in ``folder``; return them."""
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
    """Encode a grey (H, W) or RGB (H, W, 3) image, or raise InputError with ``name``."""
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
    """Raise InputError if a folder cannot be written to; ``name`` is the option, for errors."""
    folder = folder.absolute()
    nearest = next(place for place in (folder, *folder.parents) if place.exists())
    if not nearest.is_dir() or not os.access(nearest, os.W_OK | os.X_OK):
        why = "is not writable" if nearest.is_dir() else "is not a folder"
        raise InputError(f"{name} {folder}: cannot write there, since {nearest} {why}".strip())


def check_file_target(path: Path, name: str = "") -> None:
    """Like :func:`check_folder_target`, for a file."""
    if path.is_dir():
        raise InputError(f"{name} {path}: is a folder; expected a file".strip())
    check_folder_target(path.absolute().parent, name)


def check_image_target(path: Path, name: str = "") -> None:
    """Like :func:`check_file_target`; the suffix must also be that of an image format."""
    if not (path.suffix and cv2.haveImageWriter(str(path))):
        raise InputError(f"{name} {path}: cannot write this image format; use .png".strip())
    check_file_target(path, name)


def check_outputs(
    outputs: Mapping[str, str | Path | None], inputs: Iterable[object], may_hold: bool = False
) -> None:
    """Raise InputError if an output (option -> path or None) is, is in, or contains an input.

    Inputs that are not paths are ignored. ``may_hold`` allows outputs that contain inputs.
    """
    paths = dict.fromkeys(i for i in inputs if isinstance(i, (str, Path)) and "://" not in str(i))
    places = [(place, path) for path in paths if str(path) for place in _real_places(path, 2)]
    read: dict[object, str | Path] = {_identity(place): path for place, path in places}
    held = {up: path for place, path in places if not may_hold for up in place.parents}
    above = {_identity(up): path for up, path in held.items()}
    for name, output in outputs.items():
        reached = [] if output is None else _real_places(output, 1)
        for real in (*reached[:1], *filter(os.path.isdir, reached[1:])):
            found = [read.get(_identity(up)) for up in (real, *real.parents)]
            if problem := [p for p in (*found, above.get(_identity(real))) if p is not None]:
                why = f"would overwrite the input {problem[0]}, or files in it"
                raise InputError(f"{name} {output}: {why}; use another path")


def _real_places(path: str | Path, depth: int) -> list[Path]:
    """Resolve a path and, if it is a folder, the links in it and its subfolders to ``depth``."""
    real = Path(path).expanduser().resolve()
    places = [real]
    readable = depth and os.path.isdir(real) and os.access(real, os.R_OK | os.X_OK)
    for entry in os.scandir(real) if readable else ():
        if entry.is_symlink() or entry.is_dir():
            places += _real_places(entry.path, depth - 1)[not entry.is_symlink() :]
    return places


def _identity(path: Path) -> object:
    """Identify a file; hard links and names of other case are the same file."""
    return (path.stat().st_dev, path.stat().st_ino) if os.path.exists(path) else str(path)
