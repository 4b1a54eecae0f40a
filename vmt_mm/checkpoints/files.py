"""Read and write checkpoint files: nothing but weights, numbers and plain containers.

Whoever loads a pickle runs what its author wrote into it. So files are read with
``weights_only=True`` alone, and what is written needs no more than that, whatever the version of
PyTorch.
"""

from __future__ import annotations

import os
import re
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import numpy as np
import torch
from mmengine.logging import HistoryBuffer

from vmt_mm.checkpoints.adapter_file import is_adapter_file, read_adapter
from vmt_mm.checkpoints.tensor_file import read_tensors
from vmt_mm.errors import InputError
from vmt_mm.utils import compat

_HISTORY = "__history__"


class _Log:
    """Stands for mmengine's ``HistoryBuffer`` while a file is read: takes numbers alone."""

    def __init__(self, *args: Any) -> None:
        self.state: Any = None

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def restored(self) -> HistoryBuffer:
        """The log."""
        log, count = (np.asarray(self.state[f"_{x}_history"], float) for x in ("log", "count"))
        return HistoryBuffer(log, count, int(self.state["max_length"]))


def _nothing(*args: Any) -> None:
    """Stand for ``getattr``, by which logs name their statistics."""


def _safe_types() -> list:
    """What mmengine's own checkpoints hold beside tensors: logs, and numbers of NumPy's types.

    Were ``HistoryBuffer`` and ``getattr`` themselves allowed, as mmengine does, a file could reach
    any function through them.
    """
    numbers = (np.float32, np.float64, np.int32, np.int64, np.bool_)
    return [
        (_Log, "mmengine.logging.history_buffer.HistoryBuffer"),
        (_nothing, "builtins.getattr"),
        np.ndarray,
        np.dtype,
        np.zeros(0).__reduce__()[0],  # NumPy's reconstructor, whose module moves between versions
        np.float64(0).__reduce__()[0],
        *(type(np.dtype(number)) for number in numbers),
    ]


def read_checkpoint(
    location: str, map_location: str | torch.device = "cpu", mmap: bool = False
) -> Any:
    """Read a ``.safetensors`` file or a PyTorch checkpoint, from a path or an ``http(s)`` address.

    Nothing but tensors, plain containers, and NumPy's numbers is unpickled.

    Args:
        location: path or address.
        map_location: device of the tensors.
        mmap: leave tensors on the disk until they are used: to look at the rest quickly.

    Raises:
        InputError: if it is missing, damaged, or holds more than that.
    """
    location = os.path.expanduser(location)
    if location.startswith(("http://", "https://")):
        location = _downloaded(location)
    if not Path(location).is_file():
        raise InputError(f"{location}: no such checkpoint")
    if not mmap and _is_damaged_archive(location):
        raise InputError(f"{location}: cannot be read as weights, it is damaged")
    try:
        if location.endswith(".safetensors"):
            if is_adapter_file(location):
                return read_adapter(location, str(map_location)).as_checkpoint()
            return read_tensors(location, str(map_location))
        with compat.safe_types(_safe_types()):
            content = torch.load(location, map_location=map_location, weights_only=True, mmap=mmap)
        return from_plain(content)
    except InputError:
        raise
    except Exception as error:  # a damaged pickle raises whatever its bytes happen to mean
        if not compat.LISTS_TYPES and re.search(r"\b(mmengine|numpy)\.", str(error)):
            raise InputError(
                f"{location}: holds logs or numbers of mmengine's and NumPy's types, as mmengine's "
                f"own checkpoints do; PyTorch {torch.__version__} cannot read them safely. "
                "Read it with PyTorch 2.6 or newer, or, if you trust who made it, keep its weights "
                "alone: torch.save(torch.load(FILE, weights_only=False)['state_dict'], NEW)"
            ) from None
        reason = str(error).split("\n")[0].split(". ")[0] or type(error).__name__
        raise InputError(
            f"{location}: cannot be read as weights, or holds more than weights ({reason})"
        ) from error


def is_intact(path: Path) -> bool:
    """Tell whether a checkpoint can be read to its last byte: checks the sums of its archive."""
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.testzip() is None
    except Exception:  # a damaged directory raises whatever its bytes happen to mean
        return False


def _downloaded(address: str) -> str:
    """Path of a file that PyTorch keeps of an address, fetched if it is not there."""
    path = Path(torch.hub.get_dir()) / "checkpoints" / Path(urlparse(address).path).name
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            torch.hub.download_url_to_file(address, str(path))
        except OSError as error:
            raise InputError(f"{address}: cannot be fetched ({error})") from error
    return str(path)


def _is_damaged_archive(location: str) -> bool:
    try:
        return zipfile.is_zipfile(location) and not is_intact(Path(location))
    except zipfile.BadZipFile:
        return True


def to_plain(content: Any) -> Any:
    """Turn NumPy's numbers and arrays, mmengine's logs and subclasses of dict into plain types."""
    if isinstance(content, HistoryBuffer):
        log, count = content.data
        history = dict(log=log, count=count, max_length=content.max_length)
        return {_HISTORY: to_plain(history)}
    if isinstance(content, np.generic):
        return content.item()
    if isinstance(content, np.ndarray):
        return torch.from_numpy(content.copy())
    return _map(content, to_plain)


def from_plain(content: Any) -> Any:
    """Undo :func:`to_plain` for mmengine's logs; the rest stays plain."""
    if isinstance(content, _Log):
        return content.restored()
    if isinstance(content, dict) and content.keys() == {_HISTORY}:
        history = content[_HISTORY]
        return HistoryBuffer(
            history["log"].cpu().numpy(), history["count"].cpu().numpy(), history["max_length"]
        )
    return _map(content, from_plain)


def _map(content: Any, convert: Callable[[Any], Any]) -> Any:
    """Convert what plain containers hold."""
    if isinstance(content, OrderedDict):
        return OrderedDict((key, convert(value)) for key, value in content.items())
    if isinstance(content, dict):
        return {key: convert(value) for key, value in content.items()}
    if isinstance(content, (list, tuple)) and not hasattr(content, "_fields"):
        return type(content)(convert(value) for value in content)
    return content
