"""A file with any flipped bit is refused."""

import json
import random
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from vmt_mm.apis.inference import EMBEDDED_ADAPTER
from vmt_mm.checkpoints.adapter_file import Adapter, read_adapter, write_adapter
from vmt_mm.checkpoints.files import is_intact, read_checkpoint
from vmt_mm.checkpoints.tensor_file import read_metadata, read_tensors, write_tensors
from vmt_mm.errors import InputError
from vmt_mm.models.backbones.pretrained import locate

TENSORS = dict(
    weight=torch.arange(6.0).reshape(2, 3),
    half=torch.ones(3, dtype=torch.float16),
    count=torch.tensor(3),
    nothing=torch.zeros(0, 2),
    mask=torch.tensor([True, False]),
)


def adapter():
    return Adapter(
        tensors=TENSORS,
        config=dict(model=dict(type="Any", size=(1, 2))),
        description=dict(encoder=1),
        frozen=dict(source="file"),
        dataset_meta=dict(semseg=dict(classes=["a"])),
        metrics=None,
        version="0",
    )


def same(one, other):
    if isinstance(one, torch.Tensor):
        return (
            isinstance(other, torch.Tensor)
            and one.dtype == other.dtype
            and one.shape == other.shape
            and torch.equal(one, other)
        )
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[k], other[k]) for k in one)
    return one == other


def changed(path, read, content, every=1):
    """Flip a bit in every byte; count the refused copies. The others must load the same content."""
    raw, refused, draw = path.read_bytes(), 0, random.Random(0)
    copy = path.with_stem("changed")
    places = range(0, len(raw), every)
    for place in places:
        flipped = bytearray(raw)
        flipped[place] ^= 1 << draw.randrange(8)
        copy.write_bytes(flipped)
        try:
            found = read(str(copy))
        except InputError as error:
            assert str(error).startswith(str(copy)), place
            refused += 1
        else:
            assert same(found, content), place
    return refused, len(places)


def test_adapter_files(tmp_path):
    path = tmp_path / "adapter.safetensors"
    write_adapter(path, adapter())
    content = read_adapter(path).__dict__
    assert same(content, adapter().__dict__)
    refused, flips = changed(path, lambda p: read_adapter(p).__dict__, content)
    assert refused == flips


def test_other_files_of_tensors(tmp_path):
    path = tmp_path / "encoder.safetensors"
    write_tensors(path, TENSORS)
    refused, flips = changed(path, read_checkpoint, TENSORS)
    # the name of the checksum entry: files without a checksum are accepted
    assert refused >= flips - len("sha256") and flips > 400


def test_checkpoints(tmp_path):
    path = tmp_path / "checkpoint.pth"
    content = dict(meta=dict(epoch=1, cfg="a = 1"), state_dict=dict(TENSORS))
    torch.save(content, path)
    # Flips without effect (padding, timestamps) may pass: PyTorch's archives have many such bytes.
    refused, _ = changed(path, read_checkpoint, content, every=3)
    assert refused > 200
    assert is_intact(path)


def test_a_file_without_a_checksum_is_read(tmp_path):
    path, older = tmp_path / "adapter.safetensors", tmp_path / "older.safetensors"
    write_adapter(path, adapter())
    metadata = {k: v for k, v in read_metadata(path).items() if k != "sha256"}
    save_file(load_file(path), older, metadata)
    assert same(read_adapter(older).__dict__, adapter().__dict__)
    save_file(TENSORS, older)
    assert same(read_tensors(older), TENSORS)


@pytest.mark.parametrize("path", [EMBEDDED_ADAPTER, locate("vmt_mm://swin_nano")])
def test_the_shipped_files_have_one(path, tmp_path):
    assert len(json.loads(read_metadata(path)["sha256"])) == 64
    raw = bytearray(Path(path).read_bytes())
    raw[-5000] ^= 1
    (tmp_path / "copy.safetensors").write_bytes(raw)
    with pytest.raises(InputError, match=r"copy.safetensors: .* does not match its checksum"):
        read_checkpoint(str(tmp_path / "copy.safetensors"))
