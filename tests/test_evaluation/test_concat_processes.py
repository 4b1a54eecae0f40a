"""Validation of two data sets with different labels: two processes give the metrics of one."""

import json
import sys
from functools import partial
from pathlib import Path

import pytest
from halves import halves
from processes import fork_group, run_forked
from small_runs import SmallRun
from small_runs import scenes as scenes  # a fixture


def _work(rank, world, folder):
    scenes = folder / "scenes"
    options = {**halves(scenes, "test_dataloader"), "test_dataloader.batch_size": 1}
    metrics = SmallRun(folder / f"run_{world}_{rank}", scenes, options).test()
    (folder / f"{world}_{rank}.json").write_text(json.dumps(metrics))


def test_two_processes_give_the_metrics_of_one(scenes, tmp_path):
    (tmp_path / "scenes").symlink_to(scenes)
    run_forked(__file__, tmp_path)
    one, first, second = [
        json.loads((tmp_path / f"{name}.json").read_text()) for name in ("1_0", "2_0", "2_1")
    ]
    # five scenes: three of the first data set, two of the second, one repeated by two processes
    assert (one["semseg/images"], one["saliency/images"], one["normals/images"]) == (3, 2, 2)
    assert one["human_parts/images"] <= 3
    assert {"semseg/mIoU", "human_parts/mIoU", "saliency/maxF", "normals/mErr"} <= set(one)
    for output in (first, second):
        assert output == pytest.approx(one, abs=1e-9, rel=0)


if __name__ == "__main__":
    for _world in (1, 2):
        _folder = Path(sys.argv[1])
        fork_group(_world, _folder, partial(_work, world=_world, folder=_folder))
