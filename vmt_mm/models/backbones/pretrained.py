"""Read files of pretrained weights."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from pickle import UnpicklingError

import numpy as np
import torch
from mmengine.logging import HistoryBuffer
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

import vmt_mm
from vmt_mm.errors import InputError

_PACKAGE_SCHEME = "vmt_mm://"


def locate(pretrained: str) -> str:
    """Turn ``pretrained`` into a path or a URL.

    Args:
        pretrained: a path, an ``http(s)://`` address, or ``vmt_mm://NAME`` for weights that ship
            with the package.

    Raises:
        InputError: if a path does not exist; the message gives it.
    """
    if pretrained.startswith(("http://", "https://")):
        return pretrained
    path = Path(pretrained)
    if pretrained.startswith(_PACKAGE_SCHEME):
        name = pretrained.removeprefix(_PACKAGE_SCHEME)
        path = Path(vmt_mm.__file__).parent / "weights" / f"{name}.safetensors"
    if not path.is_file():
        raise InputError(
            f"pretrained weights {pretrained!r} do not exist: expected a checkpoint file of the "
            "encoder there; set it with --cfg-options pretrained=FILE"
        )
    return str(path)


def read_state_dict(pretrained: str) -> dict[str, Tensor]:
    """Read the tensors of a ``.safetensors`` file or of a PyTorch checkpoint.

    Nothing but tensors, plain containers and the logs in mmengine's checkpoints is unpickled.
    Wrapping keys (``state_dict``,
    ``model``) and prefixes (``module.``, ``backbone.``) are taken off.

    Raises:
        InputError: if the file is missing, damaged, or holds no tensors.
    """
    location = locate(pretrained)
    try:
        if location.startswith("http"):
            content = torch.hub.load_state_dict_from_url(
                location, map_location="cpu", weights_only=True
            )
        elif location.endswith(".safetensors"):
            content = load_file(location)
        else:
            # before torch 2.5 there is no such list: a checkpoint with logs in it is then refused
            allow = getattr(torch.serialization, "safe_globals", None)
            with allow(_log_types()) if allow else nullcontext():
                content = torch.load(location, map_location="cpu", weights_only=True)
    except (SafetensorError, UnpicklingError, RuntimeError, EOFError, OSError) as error:
        reason = str(error).split("\n")[0].split(". ")[0]
        raise InputError(
            f"{location}: cannot be read as weights, or holds more than weights ({reason})"
        ) from error
    return _unwrap(content, location)


def _log_types() -> list:
    """What mmengine's message hub leaves in a checkpoint beside the weights: arrays of numbers.

    ``getattr`` is in it as in mmengine's own list; the unpickler calls nothing that it returns
    unless that is listed, too.
    """
    numbers = (np.float32, np.float64, np.int32, np.int64, np.bool_)
    return [
        HistoryBuffer,
        getattr,
        slice,
        np.ndarray,
        np.dtype,
        np.zeros(0).__reduce__()[0],  # NumPy's reconstructor, whose module moves between versions
        np.float64(0).__reduce__()[0],
        *(type(np.dtype(number)) for number in numbers),
    ]


def _unwrap(content: object, location: str) -> dict[str, Tensor]:
    for key in ("state_dict", "model", "state_dict_ema"):
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    tensors = {}
    if isinstance(content, dict):
        tensors = {k: v for k, v in content.items() if isinstance(v, Tensor)}
    if not tensors:
        raise InputError(f"{location}: holds no tensors")
    tensors = {k.removeprefix("module."): v for k, v in tensors.items()}
    if any(k.startswith("backbone.") for k in tensors):
        tensors = {
            k.removeprefix("backbone."): v for k, v in tensors.items() if k.startswith("backbone.")
        }
    return tensors
