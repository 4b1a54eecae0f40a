"""Files of earlier versions give an error that names the command to update them, which works."""

import pytest
import torch
from mmengine.config import Config

from vmt_mm.apis.inference import EMBEDDED_ADAPTER
from vmt_mm.checkpoints.adapter_file import Adapter, read_adapter, write_adapter
from vmt_mm.checkpoints.files import read_checkpoint
from vmt_mm.checkpoints.renamed import refuse_old_names, with_new_names
from vmt_mm.config.dump import read_config_text
from vmt_mm.config.load import load_config
from vmt_mm.errors import InputError
from vmt_mm.loading.adapters import load_adapter

TOOL = "tools/model_converters/update_file.py"
OLD = dict(
    model=dict(backbone=dict(joins_tasks=True), keep_features=1e6, immediate_losses=False),
    train_dataloader=dict(sampler=dict(type="DrawSampler"), dataset=dict(damaged="abort")),
    default_hooks=dict(
        finite_loss=dict(type="FiniteLossHook", action="skip"),
        step_time=dict(type="StepTimeHook"),
    ),
    custom_hooks=[dict(type="StepTimeHook"), dict(type="Other", action="stop")],
)
NEW = dict(
    model=dict(backbone=dict(batch_tasks=True), eager_backward=False),
    train_dataloader=dict(sampler=dict(type="SeededSampler"), dataset=dict(on_error="raise")),
    default_hooks=dict(finite_loss=dict(type="FiniteLossHook", on_error="skip")),
    custom_hooks=[dict(type="Other", action="stop")],
)


def test_an_adapter_file(run_tool, tmp_path):
    weights = dict(w=torch.ones(3))
    named = dict(dataset_meta=dict(semseg={}), metrics={"a": 1.0}, version="0.1.0")
    frozen = dict(source=None, sha256="", tensors=0)
    adapter = Adapter(weights, OLD, dict(encoder={}), frozen, **named)
    write_adapter(tmp_path / "old.safetensors", adapter)
    with pytest.raises(InputError, match=r"update_file.py .*old\.safetensors OUTPUT"):
        load_adapter(tmp_path / "old.safetensors")
    files = (tmp_path / "old.safetensors", tmp_path / "new.safetensors")
    run_tool(TOOL, *files)
    found = read_adapter(tmp_path / "new.safetensors")
    assert found.config == NEW and found.metrics == {"a": 1.0}
    assert torch.equal(found.tensors["w"], weights["w"])
    refuse_old_names(found.config, "new.safetensors")


def test_a_checkpoint(run_tool, tmp_path):
    meta = dict(cfg=Config(OLD).pretty_text, epoch=3)
    torch.save(dict(meta=meta, state_dict=dict(w=torch.ones(3)), optimizer={}), tmp_path / "a.pth")
    files = (tmp_path / "a.pth", tmp_path / "b.pth")
    run_tool(TOOL, *files)
    found = read_checkpoint(str(tmp_path / "b.pth"))
    assert read_config_text(found["meta"]["cfg"], "b.pth") == NEW
    assert found["meta"]["epoch"] == 3 and torch.equal(found["state_dict"]["w"], torch.ones(3))
    assert found.keys() == {"meta", "state_dict", "optimizer"}


def test_a_config_of_a_work_dir(run_tool, tmp_path):
    files = (tmp_path / "old.py", tmp_path / "new.py")
    files[0].write_text(Config(OLD).pretty_text)
    with pytest.raises(
        InputError, match=r"no hook is named 'StepTimeHook'(.*\n)*.*update_file.py CONFIG OUTPUT"
    ):
        load_config(files[0])
    run_tool(TOOL, *files)
    assert Config.fromfile(files[1]).to_dict() == NEW


def test_the_shipped_adapter_needs_no_update():
    assert with_new_names(NEW) == NEW
    load_adapter(EMBEDDED_ADAPTER)
