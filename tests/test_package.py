"""Import, first impressions, and what the README shows."""

import re
import subprocess
import sys
from pathlib import Path

import cv2
import pytest
import torch

from vmt_mm.apis import load_config
from vmt_mm.registry import DATASETS, EVALUATOR, MODELS
from vmt_mm.rendering import write_dataset

ROOT = Path(__file__).parents[1]


def python(code, **kwargs):
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, **kwargs
    )


@pytest.mark.processes
def test_a_missing_library_is_one_line():
    done = python(
        "import importlib.util as u; find = u.find_spec\n"
        "u.find_spec = lambda name, *a: None if name == 'mmseg' else find(name, *a)\n"
        "import vmt_mm"
    )
    assert done.returncode != 0
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("ImportError: vmt_mm needs mmseg: run `pip install -r requirements/")


@pytest.mark.processes
def test_import_is_silent(tmp_path):
    done = python("import vmt_mm.apis, vmt_mm.datasets, vmt_mm.models", cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_the_encoder_of_a_config_builds_alone():
    cfg = load_config(ROOT / "configs/vmt/vmt_swin-nano_shapes.py")
    encoder = MODELS.build(cfg.model.backbone)
    encoder.init_weights()
    features = encoder(torch.randn(1, 3, 64, 48))
    assert list(features) == ["semseg", "human_parts", "saliency", "normals"]
    assert [m.shape for m in features["normals"]] == [
        (1, 20, 16, 12), (1, 40, 8, 6), (1, 80, 4, 3), (1, 160, 2, 2)
    ]  # fmt: skip


def test_shipped_weights_are_small():
    files = sorted((ROOT / "vmt_mm/weights").glob("*.safetensors"))
    assert [file.stem for file in files] == ["swin_nano", "vmt_swin-nano_shapes"]
    assert sum(file.stat().st_size for file in files) < 3 * 2**20


@pytest.fixture
def rooms(tmp_path, monkeypatch):
    """Somebody's folders: two tasks, one of them under a name of their own."""
    write_dataset(tmp_path / "my_rooms", train=2, val=1, size=32, seed=0, workers=1)
    for file in (tmp_path / "my_rooms/human_parts").iterdir():
        file.unlink()
    (tmp_path / "my_rooms/semseg").rename(tmp_path / "my_rooms/floor")
    for file in (tmp_path / "my_rooms/floor").iterdir():
        cv2.imwrite(str(file), cv2.imread(str(file), cv2.IMREAD_UNCHANGED) % 3)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_readmes_config_for_own_data(rooms):
    block = re.search(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)[1]
    (rooms / "own.py").write_text(block.replace('"configs/', f'"{ROOT}/configs/'))
    cfg = load_config("own.py")
    dataset = DATASETS.build(cfg.train_dataloader.dataset)
    assert cfg.val_dataloader.dataset.data_root == "my_rooms"
    assert set(dataset[0]["data_samples"].keys()) == {"gt_floor", "gt_normals"}
    assert dataset[0]["inputs"].shape == (3, 512, 512)
    model = MODELS.build(cfg.model)
    assert {n: t.out_channels for n, t in model.tasks.items()} == dict(floor=3, normals=3)
    evaluator = EVALUATOR.build(cfg.val_evaluator)
    assert [m.task for m in evaluator.metrics] == ["floor", "normals"]
    assert not evaluator.reference


def test_every_path_of_the_readme_exists():
    text = (ROOT / "README.md").read_text()
    paths = re.findall(r"\]\(([\w/.-]+)\)|((?:configs|tools|docs)/[\w/.-]+\.\w+)", text)
    named = {a or b for a, b in paths}
    assert len(named) > 8
    assert [p for p in named if not (ROOT / p).exists()] == []
