"""Read checkpoints without running pickled code, and find the one to resume."""

import json
import logging
import os
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import numpy as np
import torch
from mmengine.logging import HistoryBuffer, print_log

from vmt_mm.checkpoints.adapter_file import is_adapter_file, read_adapter
from vmt_mm.checkpoints.tensor_file import read_tensors
from vmt_mm.errors import InputError
from vmt_mm.utils import compat

#: File name of the checkpoint that is written when a signal ends training.
INTERRUPTED = "interrupted.pth"
#: File, and message hub entry, with metrics and iteration of the last validation.
LAST_VALIDATION, VALIDATED = "last_validation.json", "last_validation"
_HISTORY = "__history__"


class _Ignored:
    """Replaces types through which a file could call arbitrary functions."""

    def __init__(self, *args: Any) -> None: ...

    def __setstate__(self, state: Any) -> None: ...


#: Types in mmengine's checkpoints in addition to tensors: logs and NumPy numbers.
_SAFE_TYPES: list[Any] = [
    (_Ignored, "mmengine.logging.history_buffer.HistoryBuffer"),
    (_Ignored, "builtins.getattr"),
    *(np.ndarray, np.dtype, *(type(np.dtype(kind)) for kind in ("f4", "f8", "i4", "i8", "?"))),
    *(value.__reduce__()[0] for value in (np.zeros(0), np.float64(0))),  # NumPy's constructors
]


def read_checkpoint(location: str, map_location: str | torch.device = "cpu") -> Any:
    """Read a PyTorch checkpoint, adapter or ``.safetensors`` file safely, from a path or a URL."""
    location = os.path.expanduser(location)
    if location.startswith(("http://", "https://")):
        location = _downloaded(location)
    if not Path(location).is_file():
        raise InputError(f"{location}: no such checkpoint")
    try:
        if location.endswith(".safetensors"):
            if is_adapter_file(location):
                return read_adapter(location, str(map_location)).as_checkpoint()
            return read_tensors(location, str(map_location))
        if zipfile.is_zipfile(location) and not is_intact(Path(location)):
            raise InputError(f"{location}: cannot be read as weights: the file is damaged")
        with compat.safe_types(_SAFE_TYPES):
            return from_plain(torch.load(location, map_location=map_location, weights_only=True))
    except InputError:
        raise
    except Exception as error:  # a damaged pickle may raise anything
        reason = str(error).split("\n")[0].split(". ")[0] or type(error).__name__
        raise InputError(
            f"{location}: cannot be read as weights, or contains other objects ({reason})"
        ) from error


def is_intact(path: Path) -> bool:
    """Whether a checkpoint is complete and the checksums of its archive match."""
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.testzip() is None
    except Exception:  # a damaged directory may raise anything
        return False


def _downloaded(address: str) -> str:
    """Download a file into PyTorch's cache, unless it is there; return its path."""
    path = Path(torch.hub.get_dir()) / "checkpoints" / Path(urlparse(address).path).name
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            torch.hub.download_url_to_file(address, str(path))
        except OSError as error:
            raise InputError(f"{address}: cannot be downloaded ({error})") from error
    return str(path)


def to_plain(content: Any) -> Any:
    """Convert NumPy numbers and arrays, mmengine's logs and dict subclasses to plain types."""
    if isinstance(content, HistoryBuffer):
        log, count = map(to_plain, content.data)
        return {_HISTORY: dict(log=log, count=count, max_length=content.max_length)}
    if isinstance(content, np.generic):
        return content.item()
    if isinstance(content, np.ndarray):
        return torch.from_numpy(content.copy())
    return _map(content, to_plain)


def from_plain(content: Any) -> Any:
    """Undo :func:`to_plain` for mmengine's logs; the rest stays plain."""
    if isinstance(content, dict) and content.keys() == {_HISTORY}:
        history = content[_HISTORY]
        log, count = (history[key].cpu().numpy() for key in ("log", "count"))
        return HistoryBuffer(log, count, history["max_length"])
    return _map(content, from_plain)


def _map(content: Any, convert: Callable[[Any], Any]) -> Any:
    """Convert the elements of plain containers."""
    if isinstance(content, dict):
        kind = OrderedDict if isinstance(content, OrderedDict) else dict
        return kind((key, convert(value)) for key, value in content.items())
    if isinstance(content, (list, tuple)) and not hasattr(content, "_fields"):
        return type(content)(convert(value) for value in content)
    return content


def validated_iteration(work_dir: str | Path) -> int | None:
    """Return the iteration of the work dir's last validation; None before the first."""
    path = Path(work_dir) / LAST_VALIDATION
    return json.loads(path.read_text())["iter"] if path.is_file() else None


def newest_checkpoint(work_dir: str | Path) -> str | None:
    """Return the checkpoint with the most iterations, or None if there is none.

    Also searches the folder that ``last_checkpoint`` names. Skips damaged files with a warning.
    Raises InputError if all are damaged, since a new run would overwrite them.
    """
    folders, pointer = {Path(work_dir)}, Path(work_dir) / "last_checkpoint"
    if pointer.is_file() and (last := pointer.read_text().strip()):
        folders.add(Path(last).parent)
    found: list[tuple[int, float, str]] = []
    damaged: list[str] = []
    for path in {p.resolve(): p for folder in folders for p in folder.glob("*.pth")}.values():
        try:
            content = read_checkpoint(str(path))
        except InputError:
            damaged.append(str(path))
            continue
        meta = content.get("meta", {}) if isinstance(content, dict) else {}
        if "iter" in meta and "optimizer" in content:
            found.append((meta["iter"], path.stat().st_mtime, str(path)))
    if damaged and not found:
        names = ", ".join(sorted(damaged))
        raise InputError(f"{work_dir}: all checkpoints are damaged ({names}); move or delete them")
    for path in damaged:
        text = f"{path}: skipped a damaged checkpoint; resuming from {max(found)[2]}"
        print_log(text, "current", logging.WARNING)
    return max(found)[2] if found else None
