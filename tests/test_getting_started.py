"""Run the commands of docs/getting_started.md in order, as a newcomer does.

``SMALLER`` replaces the page's sizes; commands that set up an environment are skipped.
"""

import importlib.util
import json
import re
import shlex

import pytest
import torch
from commands import ROOT

PAGE = (ROOT / "docs/getting_started.md").read_text()
CONFIG, IN_PYTHON = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
COMMANDS = [
    shlex.split(command)
    for block in re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL)
    for command in block.replace("\\\n", " ").splitlines()
]
SET_UP = ("make", "source", "pip")
#: Text of the page's config -> its replacement, so that the test takes seconds.
SMALLER = {
    "train=64, val=8, size=64": "train=8, val=2, size=32",
    "image_size = (64, 64)": "image_size = (32, 32)",
}
#: Starting loader workers takes longer than loading so few images.
ONE_PROCESS = "".join(
    f"{name}_dataloader = dict(num_workers=0, persistent_workers=False)\n"
    for name in ("train", "val", "test")
)
#: Beginning of a command -> some of the files that it writes.
LEAVES = {
    "tools/misc/browse_dataset.py": ["data/first/splits/val.txt"],
    "tools/train.py first.py": ["work_dirs/first/epoch_2.pth"],
    "tools/test.py first.py": [
        "work_dirs/first_test/panels/val_00001.png",
        "work_dirs/first_test/predictions/human_parts/val_00001.png",
    ],
    "tools/analysis_tools/analyze_logs.py": ["work_dirs/first_curves.png"],
    "demo/image_demo_with_inferencer.py data/first/images first.py": [
        "work_dirs/first_photos/panels/val_00001.png"
    ],
    "tools/model_converters/export_adapter.py": ["work_dirs/first.safetensors"],
    "demo/image_demo_with_inferencer.py data/first/images work_dirs/first.safetensors": [
        "work_dirs/first_adapter/semseg/val_00001.png"
    ],
    "demo/image_demo_with_inferencer.py data/first/images vmt_mm": [
        "work_dirs/embedded/panels/val_00001.png"
    ],
    "tools/misc/add_task.py": ["first_add-edge.py"],
    "tools/train.py first_add-edge.py": ["work_dirs/first_add-edge/epoch_2.pth"],
    "tools/test.py first_add-edge.py": ["work_dirs/first_edge_test/metrics.json"],
    "tools/model_converters/export_model.py": ["work_dirs/first.onnx"],
}


@pytest.fixture
def clone(tmp_path, monkeypatch):
    """A clone: the repository's folders and the page's config."""
    for name in ("configs", "tools", "demo", "vmt_mm"):
        (tmp_path / name).symlink_to(ROOT / name)
    text = CONFIG
    for value, smaller in SMALLER.items():
        assert text.count(value) == 1
        text = text.replace(value, smaller)
    (tmp_path / "first.py").write_text(text + ONE_PROCESS)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_commands_work_one_after_the_other(run_tool, clone):
    ran = []
    for words in COMMANDS:
        if words[0] in SET_UP:
            continue
        assert words[0] == "python"
        line = shlex.join(words[1:])
        if "export_model" in line and not importlib.util.find_spec("onnxruntime"):
            continue
        if "--resume" in words:  # so that there is something left to train
            for name in ("epoch_2.pth", "last_checkpoint"):
                (clone / "work_dirs/first" / name).unlink()
        run_tool(*words[1:], cwd=clone)
        ran.append(line)
        for start, files in LEAVES.items():
            if line.startswith(start):
                for file in files:
                    assert (clone / file).is_file(), line
    for start in LEAVES:
        if start != "tools/model_converters/export_model.py":
            assert any(line.startswith(start) for line in ran), f"{start} is not on the page"
    assert len(list((clone / "work_dirs/browse/first").glob("*.png"))) == 4
    _check_metrics(clone)
    _check_that_the_earlier_tasks_stay(clone)
    exec(compile(IN_PYTHON, "getting_started.md", "exec"), {})


def _check_metrics(clone):
    """The page names metrics that exist, and a new task changes no other metric."""
    metrics = json.loads((clone / "work_dirs/first_test/metrics.json").read_text())
    reading = PAGE.split("## Test")[1].split("## Predict")[0]
    named = re.findall(r"`(\w+/\w+)`", reading)
    assert len(named) == 5
    assert {*named, "semseg/images"} <= metrics.keys()
    edges = json.loads((clone / "work_dirs/first_edge_test/metrics.json").read_text())
    assert {key.split("/")[0] for key in edges} == {key.split("/")[0] for key in metrics} | {"edge"}
    assert metrics.items() <= edges.items()


def _check_that_the_earlier_tasks_stay(clone):
    earlier, later = (
        torch.load(clone / "work_dirs" / name / "epoch_2.pth", weights_only=True)["state_dict"]
        for name in ("first", "first_add-edge")
    )
    assert earlier.keys() < later.keys()
    assert all(torch.equal(later[key], value) for key, value in earlier.items())
