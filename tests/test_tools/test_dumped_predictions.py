"""The metrics of `tools/test.py` equal those computed from the files that it writes."""

import json

import pytest
from commands import CONFIG, ROOT, options
from recompute import recompute

from vmt_mm.evaluation.task_metric import is_of_class

#: 8 bits move a probability by 1/510 and a normal's component by 1/255. The tolerance is relative
#: to 100 if a metric is a percentage, otherwise to its value.
_ROUNDING = 1e-3
#: Pixels within 1/510 of a threshold may change sides, equal ones at the same time.
_CUT = 3e-3
#: The metric finds the median in a histogram, with bins of as many degrees.
_BIN = 0.05
#: Metres; some of the labels are farther.
_FAR = 4.0
_NO_PERCENTAGE = ("mErr", "median", "rmse", "abs_rel", "threshold", "images")


@pytest.fixture(scope="module")
def tested(run_tool, tmp_path_factory):
    """Metrics, data and dumped predictions of all kinds of task."""
    folder = tmp_path_factory.mktemp("dumped")
    config = folder / "six_tasks.py"
    config.write_text(
        f"_base_ = {str(ROOT / CONFIG)!r}\n"
        "tasks = dict(edge=dict(type='Edge', loss_weight=50.0, tolerance=0.02),\n"
        f"             depth=dict(type='Depth', max_depth={_FAR}))\n"
    )
    small = options(
        folder, "render.val=16", "train_cfg.max_epochs=4", "train_cfg.val_interval=4",
        "default_hooks.visualization.num_images=0",
    )  # fmt: skip
    run_tool("tools/train.py", config, "--work-dir", folder / "run", *small)
    output = run_tool(
        *("tools/test.py", config, folder / "run/epoch_4.pth"),
        *("--work-dir", folder / "test", "--out", folder / "out", *small),
    )
    return json.loads((folder / "test/metrics.json").read_text()), output.out, folder


def test_metrics_come_from_the_files(tested):
    metrics, _, folder = tested
    again = recompute(folder / "shapes", folder / "out", max_depth=_FAR, tolerance=0.02)
    left_out = {"saliency/threshold", "saliency/two_class_mIoU", "edge/loss"}
    counts = {f"{task}/absent_classes" for task in ("semseg", "human_parts")}
    of_set = {key for key in metrics if not is_of_class(key) and not key.endswith("/mAcc")}
    assert set(again) == of_set - left_out - counts
    for name, value in again.items():
        scale = abs(value) if name.split("/")[1] in _NO_PERCENTAGE else 100
        limit = scale * (_CUT if name in ("saliency/mIoU", "saliency/maxF") else _ROUNDING)
        if name == "normals/median":
            limit += _BIN
        assert metrics[name] == pytest.approx(value, abs=limit), name
    # the metrics are not trivial, as those of a constant prediction
    assert 5 < metrics["edge/boundaryF"] < 100
    assert 0 < metrics["depth/delta_1"] < 100
    # nor are the limit of depth and the tolerance without effect
    tasks = ["edge", "depth"]
    other = recompute(folder / "shapes", folder / "out", tasks)
    assert other.keys() == {key for key in again if key.split("/")[0] in tasks}
    for key in ("depth/rmse", "edge/boundaryF"):
        assert other[key] != pytest.approx(again[key], rel=0.01)


def test_the_table_names_the_primary_metrics(tested):
    metrics, output, _ = tested
    for text in ("boundaryF (higher is better)", "rmse (lower is better)"):
        assert text in output
    assert f"{metrics['edge/boundaryF']:.2f}" in output
    assert f"{metrics['depth/rmse']:.2f}" in output
