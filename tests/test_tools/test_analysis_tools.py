"""get_flops, analyze_logs and confusion_matrix, as a user runs them."""

import json

import cv2
from commands import CONFIG, SMALL

TOOLS = "tools/analysis_tools"


def test_labels_as_predictions_are_the_diagonal(run_tool, scenes, tmp_path):
    command = (f"{TOOLS}/confusion_matrix.py", CONFIG, scenes, tmp_path)
    data = ("--cfg-options", f"data_root={scenes}", *SMALL)
    run_tool(*command, "--task", "human_parts", *data)
    counts = json.loads((tmp_path / "confusion_human_parts.json").read_text())
    assert len(counts["classes"]) == 7
    pixels = counts["pixels"]
    assert sum(row[i] for i, row in enumerate(pixels)) == sum(map(sum, pixels)) > 1000
    assert cv2.imread(str(tmp_path / "confusion_human_parts.png")).shape[2] == 3
    error = run_tool(*command, "--task", "normals", *data, code=1).err
    assert "error: --task must be one of ['semseg', 'human_parts'], got 'normals'" in error


def test_operations_grow_with_the_image(run_tool):
    small, large = (
        json.loads(run_tool(f"{TOOLS}/get_flops.py", CONFIG, "--json", "--shape", side).out)
        for side in (112, 224)
    )
    small, large = (sum(part["flops"] for part in parts) for parts in (small, large))
    assert 3 < large / small < 4.1  # windows are padded: not quite four times


def test_curves_and_times(run_tool, tmp_path):
    log = tmp_path / "log.json"
    lines = [dict(step=n, epoch=1, iter=n, time=0.5, loss_a=1 / (n + 1)) for n in range(5)]
    log.write_text("\n".join(map(json.dumps, [*lines, {"step": 1, "a/mIoU": 3.0}])))
    tool = f"{TOOLS}/analyze_logs.py"
    assert "average iter time: 0.5000 s/iter" in run_tool(tool, "cal_train_time", log).out
    run_tool(tool, "plot_curve", log, "--out", tmp_path / "curves.png")
    assert cv2.imread(str(tmp_path / "curves.png")).shape == (900, 900, 3)
