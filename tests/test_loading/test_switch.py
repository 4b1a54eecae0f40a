"""Each of several adapters on one backbone predicts what it predicts alone, bit for bit."""

import pytest
import torch
from methods import scatter
from mmengine.config import Config

from vmt_mm.errors import InputError
from vmt_mm.loading.adapters import AdapterSwitch, export_adapter, load_adapter
from vmt_mm.models.backbones import peft_backbone
from vmt_mm.models.backbones.pretrained import read_state_dict
from vmt_mm.registry import MODELS

SHIPPED = "vmt_mm://swin_nano"
SEGMENT = dict(type="Segmentation", num_classes=3)


def write(folder, name, peft, tasks, pretrained=SHIPPED):
    """An adapter file of a model with changed values."""
    model = dict(
        type="MultiTaskSegmentor",
        tasks=tasks,
        backbone=dict(type="MultiTaskSwin", arch="nano", pretrained=pretrained, peft=peft),
        head=dict(type="MLPHead", channels=8),
    )
    built = MODELS.build(model)
    built.init_weights()
    scatter(built)
    torch.save(dict(state_dict=built.state_dict()), folder / "model.pth")
    export_adapter(Config(dict(model=model)), folder / "model.pth", folder / name)
    return folder / name


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("adapters")
    torch.manual_seed(3)
    parts = dict(parts=SEGMENT, edge=dict(type="Edge"))
    return dict(
        vmt=write(folder, "vmt.safetensors", dict(type="VMTAdapter"), dict(semseg=SEGMENT)),
        # changes the backbone's biases, and norms that are not in its file
        bitfit=write(folder, "bitfit.safetensors", dict(type="BitFit"), parts),
        # replaces modules of the backbone
        lora=write(folder, "lora.safetensors", dict(type="LoRA"), dict(depth=dict(type="Depth"))),
    )


def predict(model):
    images = torch.randn(1, 3, 40, 48, generator=torch.Generator().manual_seed(2))
    (sample,) = model(images, mode="predict")
    return {name: sample.prediction(name) for name in model.tasks}


@pytest.mark.parametrize("order", [("vmt", "bitfit", "lora"), ("bitfit", "lora", "vmt")])
def test_each_adapter_predicts_as_if_it_were_the_only_one(files, order):
    alone = {name: predict(load_adapter(files[name])) for name in order}
    switch = AdapterSwitch()
    for name in order:
        assert switch.add(name, files[name]) is switch.use(name)
    for name in (*order, *order[::-1]):
        model = switch.use(name)
        assert not model.training
        found = predict(model)
        assert found.keys() == alone[name].keys()
        for task, values in alone[name].items():
            assert torch.equal(found[task], values), (name, task)


def test_the_frozen_backbone_is_in_memory_once(files):
    switch = AdapterSwitch()
    models = [switch.add(name, path) for name, path in files.items()]
    weights = [dict(m.named_parameters())["backbone.patch_embed.projection.weight"] for m in models]
    assert all(weight is weights[0] for weight in weights)
    own = {id(p) for m in models for p in m.parameters()}
    one = len(list(models[0].backbone.parameters()))
    assert len(own) < 2 * one + sum(len(list(m.heads.parameters())) for m in models)


def test_the_backbone_file_is_read_once(files, monkeypatch):
    switch = AdapterSwitch()
    switch.add("vmt", files["vmt"])
    monkeypatch.setattr(peft_backbone, "read_state_dict", None)
    for name in files:
        switch.add(name, files[name])


def test_an_adapter_of_another_backbone_is_refused_and_nothing_changes(files, tmp_path):
    state = read_state_dict(SHIPPED)
    key = next(k for k in state if k.endswith("fc1.weight") or k.endswith("ffn.layers.0.0.weight"))
    state[key] = state[key] + 1
    torch.save(state, tmp_path / "other.pth")
    peft, tasks = dict(type="VMTAdapter"), dict(semseg=SEGMENT)
    other = write(tmp_path, "a.safetensors", peft, tasks, str(tmp_path / "other.pth"))
    switch = AdapterSwitch()
    switch.add("vmt", files["vmt"])
    before = predict(switch.use("vmt"))
    with pytest.raises(InputError, match="trained on a different frozen backbone .*other.pth"):
        switch.add("other", other)
    assert list(switch.models) == ["vmt"]
    after = predict(switch.use("vmt"))
    assert all(torch.equal(before[task], after[task]) for task in before)


def test_names(files):
    switch = AdapterSwitch()
    switch.add("vmt", files["vmt"])
    switch.add("lora", files["lora"])
    with pytest.raises(InputError, match=r"no adapter 'bitfit'; there are \['vmt', 'lora'\]"):
        switch.use("bitfit")
    del switch.models["vmt"]
    assert switch.use("lora") is switch.models["lora"]
