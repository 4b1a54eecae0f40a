"""Outputs never overwrite inputs: every caller checks the same rule."""

import importlib.util
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from commands import ROOT
from mmengine.config import Config

from vmt_mm.config.tree import check_start, check_work_dir, files_read
from vmt_mm.datasets import MultiTaskDataset
from vmt_mm.engine.hooks.reports import MultiTaskVisualizationHook, PredictionWriterHook
from vmt_mm.errors import InputError
from vmt_mm.loading.adapters import export_adapter
from vmt_mm.loading.edit import edit_tasks
from vmt_mm.utils.files import write_image

READ = "would overwrite the input"


@pytest.fixture
def root(tmp_path, monkeypatch):
    """A dataset with one image."""
    for name, shape in (("images", (8, 8, 3)), ("floor", (8, 8))):
        write_image(tmp_path / "data" / name / "a.png", np.zeros(shape, np.uint8))
    (tmp_path / "data" / "splits").mkdir()
    (tmp_path / "data" / "splits" / "train.txt").write_text("a")
    monkeypatch.chdir(tmp_path)
    return Path("data")


@pytest.fixture
def cfg(root):
    data = dict(type="MultiTaskDataset", data_root=str(root), tasks=dict(floor={}))
    wrapped = dict(type="ConcatDataset", datasets=[data])
    return Config(dict(test_dataloader=dict(dataset=wrapped), load_from="model.pth"))


def test_inputs_of_a_config(cfg):
    read = {str(path) for path in files_read(cfg)}
    folders = {"data", "data/images", "data/floor", "data/splits", "data/splits/train.txt"}
    assert read == {"model.pth", *folders}


@pytest.mark.parametrize("work_dir", ["data", "./data/", "data/images", "data/floor/run", "link"])
def test_a_work_dir(cfg, root, work_dir):
    Path("link").symlink_to(root)
    cfg.work_dir = work_dir
    with pytest.raises(InputError, match=f"work_dir {work_dir}"):
        check_work_dir(cfg)
    for work_dir in ("work_dirs/x", ".", "data2"):
        cfg.work_dir = work_dir
        check_work_dir(cfg)


def test_a_training_from_a_checkpoint_in_its_work_dir(root):
    Path("work").mkdir()
    for name in ("epoch_3.pth", "best_floor_mIoU_epoch_2.pth", "start.pth"):
        Path("work", name).write_bytes(b"1")
        if name != "start.pth":
            with pytest.raises(InputError, match=READ):
                check_start(f"./work/{name}", "work")
        check_start(f"work/{name}", "other")
    check_start("work/start.pth", "work")
    check_start(None, "work")


@pytest.mark.parametrize("folder", ["data", "data/floor", "data/new", ".", "link"])
def test_hooks_that_write(cfg, root, folder):
    Path("link").symlink_to(root)
    model = SimpleNamespace(tasks=dict(floor=None))
    runner = SimpleNamespace(cfg=cfg, model=model)
    for hook in (PredictionWriterHook(folder), MultiTaskVisualizationHook(show_dir=folder)):
        with pytest.raises(InputError, match=READ):
            hook.before_run(runner)
    PredictionWriterHook("out").before_run(runner)
    MultiTaskVisualizationHook().before_run(runner)


def test_a_task_s_folder_that_is_a_link(cfg, root):
    Path("out").mkdir()
    Path("out/floor").symlink_to(Path("data/floor").resolve())
    runner = SimpleNamespace(cfg=cfg, model=SimpleNamespace(tasks=dict(floor=None)))
    with pytest.raises(InputError, match=READ):
        PredictionWriterHook("out").before_run(runner)


def test_a_cache(root):
    settings = dict(
        data_root=str(root),
        tasks=dict(floor=dict(type="Segmentation", num_classes=2)),
        pipeline=[dict(type="LoadImageFromFile")],
    )
    for folder in ("data/images", "data/floor/cache", "data", "."):
        with pytest.raises(InputError, match=READ):
            MultiTaskDataset(**settings, cache=folder)
    MultiTaskDataset(**settings, cache=True)[0]
    assert list(Path("data/cache").rglob("*.safetensors"))


def test_an_inferencer(inferencer, root, tmp_path):
    read = Path("data/images/a.png")
    for given, out in (
        (read, "data/images"),
        (read, "data"),
        ("data/images", "data/images/new"),
        ("data/images/*.png", "."),
    ):
        with pytest.raises(InputError, match=READ):
            inferencer(str(given), out_dir=out)
    before = read.read_bytes()
    inferencer("data/images", out_dir="out")
    assert read.read_bytes() == before


def test_files_of_models(root, tmp_path):
    state = {"layers.0.attn.qkv.weight": torch.zeros(2, 2), "cls_token": torch.zeros(1)}
    torch.save(dict(state_dict=state, meta={}), "model.pth")
    content = Path("model.pth").read_bytes()
    for out in ("model.pth", "./model.pth"):
        with pytest.raises(InputError, match=READ):
            edit_tasks("model.pth", Path(out), remove=("a",))
        with pytest.raises(SystemExit):
            run_tool("tools/model_converters/export_encoder.py", "model.pth", out)
    assert Path("model.pth").read_bytes() == content
    Path("encoder.safetensors").write_bytes(b"weights")
    model = dict(backbone=dict(pretrained="encoder.safetensors"))
    with pytest.raises(InputError, match=READ):
        export_adapter(Config(dict(model=model)), "model.pth", Path("encoder.safetensors"))


def run_tool(path, *arguments):
    """Run a tool's ``main`` in this process."""
    spec = importlib.util.spec_from_file_location("tool", ROOT / path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    before, sys.argv = sys.argv, [path, *arguments]
    try:
        module.main()
    finally:
        sys.argv = before
