"""``.safetensors`` files with a checksum, which the format lacks."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from vmt_mm.errors import InputError
from vmt_mm.utils.files import write_bytes

#: Key of the checksum in the metadata; its value is JSON, like all others.
CHECKSUM = "sha256"


def tensors_sha256(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 of tensors: names, shapes, types and bytes, in the order of the names."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        value = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name} {tuple(value.shape)} {value.dtype}\n".encode())
        digest.update(value.flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def write_tensors(
    path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None
) -> None:
    """Write tensors, metadata and the checksum over both, atomically."""
    own = {key: value.detach().cpu().contiguous() for key, value in tensors.items()}
    checksum = _checksum(own, metadata or {})
    write_bytes(path, save(own, {**(metadata or {}), CHECKSUM: json.dumps(checksum)}))


def read_tensors(path: str | Path, device: str = "cpu") -> dict[str, Tensor]:
    """Read the tensors of a file; raise InputError if it is damaged or its checksum differs."""
    metadata, tensors = _read(path, tensors=True)
    if CHECKSUM in metadata and metadata[CHECKSUM] != json.dumps(_checksum(tensors, metadata)):
        raise InputError(
            f"{path}: cannot be read as weights: its content does not match its checksum; get "
            "the file again"
        )
    return {key: value.to(device) for key, value in tensors.items()}


def read_metadata(path: str | Path) -> dict[str, str]:
    """Read the metadata of a file; raise InputError if it is not a valid file."""
    return _read(path, tensors=False)[0]


def _read(path: str | Path, tensors: bool) -> tuple[dict[str, str], dict[str, Tensor]]:
    try:
        with safe_open(path, framework="pt") as content:
            names = list(content.keys()) if tensors else []
            return dict(content.metadata() or {}), {key: content.get_tensor(key) for key in names}
    except (SafetensorError, OSError, ValueError) as error:
        raise InputError(
            f"{path}: cannot be read as weights: damaged or not a .safetensors file ({error})"
        ) from error


def _checksum(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> str:
    lines = [f"{key}={value}" for key, value in sorted(metadata.items()) if key != CHECKSUM]
    return hashlib.sha256("\n".join([tensors_sha256(tensors), *lines]).encode()).hexdigest()
