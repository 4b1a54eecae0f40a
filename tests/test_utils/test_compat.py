"""One file checks the version of PyTorch and backports newer functions."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch

from vmt_mm.errors import InputError
from vmt_mm.models.backbones.peft_backbone import PEFTBackbone
from vmt_mm.utils import compat

ROOT = Path(__file__).parents[2]
#: Checks of a version or a name, and names added after 2.1.
ASKED = re.compile(
    r"digit_version\(|hasattr\(torch\b|getattr\(torch[\w.]*, [\"']"
    r"|is_autocast_(\w+_)?enabled|get_autocast_|compiler\.is_|torch\.(uint16|uint32|uint64)\b"
    r"|safe_globals|flop_registry|flop_mapping|attention_for_cpu|torch\.(accelerator|nn\.attention)"
    r"|torch\.amp\.GradScaler|torch\.serialization\.\w+_mmap"
)


def test_no_other_file_asks():
    files = [*(ROOT / "vmt_mm").rglob("*.py"), *(ROOT / "tools").rglob("*.py")]
    asking = {path.name for path in files if ASKED.search(path.read_text())}
    assert asking == {"compat.py"}


def test_the_type_of_autocast():
    for kind in ("cpu", "cuda", "mps"):
        assert compat.autocast_dtype(kind) is None
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert compat.autocast_dtype("cpu") is torch.bfloat16
        with torch.autocast("cpu", enabled=False):
            assert compat.autocast_dtype("cpu") is None


def test_arrays_of_sixteen_bits(monkeypatch):
    array = np.uint16([0, 1, 40000, 65535])
    assert compat.from_numpy(array).tolist() == array.tolist()
    monkeypatch.setattr(compat, "UINT16", None)
    assert compat.from_numpy(array).dtype == torch.int32
    assert compat.from_numpy(array).tolist() == array.tolist()
    floats = np.float32([1, 2])
    compat.from_numpy(floats)[0] = 5
    assert floats[0] == 5  # shared memory, as with torch.from_numpy


def test_features_of_a_newer_version_say_so(monkeypatch):
    monkeypatch.setattr(torch, "__version__", "2.5.1+cu121")
    with pytest.raises(InputError, match=r"compile_features needs PyTorch 2\.6 .* got 2\.5\.1"):
        PEFTBackbone.compile_features(None)
    monkeypatch.setattr(torch, "__version__", "2.6.0")
    compat.need("2.6", "this")
