"""get_flops, analyze_logs and confusion_matrix, as a user runs them."""

import json

import cv2
import pytest
from commands import CONFIG, SMALL, caller

from vmt_mm.rendering import write_dataset

TOOLS = "tools/analysis_tools"


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scenes") / "shapes"
    write_dataset(folder, train=16, val=5, size=48, seed=0, workers=1)
    return folder


def test_labels_as_predictions_are_the_diagonal(scenes, tmp_path, monkeypatch, capsys):
    call = caller(f"{TOOLS}/confusion_matrix.py", monkeypatch, capsys)
    data = ("--cfg-options", f"data_root={scenes}", *SMALL)
    call(CONFIG, str(scenes), str(tmp_path), "--task", "human_parts", *data)
    counts = json.loads((tmp_path / "confusion_human_parts.json").read_text())
    assert len(counts["classes"]) == 7
    pixels = counts["pixels"]
    assert sum(row[i] for i, row in enumerate(pixels)) == sum(map(sum, pixels)) > 1000
    assert cv2.imread(str(tmp_path / "confusion_human_parts.png")).shape[2] == 3
    with pytest.raises(SystemExit):
        call(CONFIG, str(scenes), str(tmp_path), "--task", "normals", *data)
    error = capsys.readouterr().err
    assert "error: --task normals: tasks with classes are ['semseg', 'human_parts']" in error


def test_operations_grow_with_the_image(monkeypatch, capsys):
    call = caller(f"{TOOLS}/get_flops.py", monkeypatch, capsys)
    small, large = (
        sum(part["flops"] for part in json.loads(call(CONFIG, "--json", "--shape", side)))
        for side in ("112", "224")
    )
    assert 3 < large / small < 4.1  # windows are filled up: not quite four times


def test_curves_and_times(tmp_path, monkeypatch, capsys):
    log = tmp_path / "log.json"
    lines = [dict(step=n, epoch=1, iter=n, time=0.5, loss_a=1 / (n + 1)) for n in range(5)]
    log.write_text("\n".join(map(json.dumps, [*lines, {"step": 1, "a/mIoU": 3.0}])))
    call = caller(f"{TOOLS}/analyze_logs.py", monkeypatch, capsys)
    assert "average iter time: 0.5000 s/iter" in call("cal_train_time", str(log))
    call("plot_curve", str(log), "--out", str(tmp_path / "curves.png"))
    assert cv2.imread(str(tmp_path / "curves.png")).shape == (900, 900, 3)
