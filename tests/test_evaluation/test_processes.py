"""Metrics over several processes equal those of one process."""

import json
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from halves import halves
from mmengine.dataset import DefaultSampler
from processes import fork_group, run_forked
from small_runs import SmallRun

from vmt_mm.evaluation import MultiTaskEvaluator
from vmt_mm.structures import MultiTaskDataSample

pytestmark = pytest.mark.processes

_IMAGES = 7
_WITHOUT_PERSON = (1, 4)
_WITHOUT_LABELS = 5
#: An image whose depth and edge labels have no valid pixel.
_WITHOUT_DEPTH = 3
_TASKS = dict(
    semseg=dict(type="Segmentation", num_classes=5),
    human_parts=dict(type="Segmentation", num_classes=4, skip_background=True),
    saliency=dict(type="Saliency"),
    normals=dict(type="Normals"),
    edge=dict(type="Edge", tolerance=0.1),
    depth=dict(type="Depth"),
)
_REFERENCE = dict(semseg=50.0, human_parts=40.0, saliency=60.0, normals=20.0, edge=70.0, depth=0.6)


def _sample(index: int) -> MultiTaskDataSample:
    """Image ``index`` of the dataset, each of a different size."""
    rng = np.random.default_rng(index)
    size = (6 + index, 9 - index // 2)
    labels = dict(
        semseg=rng.integers(0, 5, (1, *size)).astype(np.uint8),
        human_parts=rng.integers(0, 4, (1, *size)).astype(np.uint8),
        saliency=rng.integers(0, 2, (1, *size)).astype(np.uint8),
        normals=rng.normal(size=(3, *size)).astype(np.float32),
        edge=(rng.random((1, *size)) < 0.2).astype(np.uint8),
        depth=rng.uniform(1, 9, (1, *size)).astype(np.float32),
    )
    if index in _WITHOUT_PERSON:
        labels["human_parts"][:] = 0
    if index == _WITHOUT_DEPTH:
        labels["depth"][:] = 0
        labels["edge"][:] = 255
    sample = MultiTaskDataSample()
    for name, label in labels.items():
        if index != _WITHOUT_LABELS:
            sample.set_label(name, torch.from_numpy(label))
    guesses = dict(
        semseg=np.where(rng.random(size) < 0.6, labels["semseg"], 2).astype(np.uint8),
        human_parts=np.where(rng.random(size) < 0.6, labels["human_parts"], 1).astype(np.uint8),
        saliency=(0.4 * labels["saliency"] + 0.6 * rng.random(size)).astype(np.float32),
        normals=(labels["normals"] + 0.5 * rng.normal(size=(3, *size))).astype(np.float32),
        edge=(0.3 * (labels["edge"] == 1) + 0.7 * rng.random(size)).astype(np.float32),
        depth=(labels["depth"] * rng.uniform(0.7, 1.4, size)).astype(np.float32),
    )
    for name, guess in guesses.items():
        sample.set_prediction(name, torch.from_numpy(guess))
    return sample


def _evaluate(indices: list[int]) -> dict[str, float]:
    """Results after this process has seen its share of the images, in batches of 2."""
    evaluator = MultiTaskEvaluator(_TASKS, reference=_REFERENCE)
    for start in range(0, len(indices), 2):
        evaluator.process([_sample(i) for i in indices[start : start + 2]])
    return evaluator.evaluate(_IMAGES)


def _test_halves(rank: int, world: int, folder: Path) -> dict[str, float]:
    """Metrics of a small model on two datasets with different labels."""
    options = {**halves(folder / "scenes", "test_dataloader"), "test_dataloader.batch_size": 1}
    return SmallRun(folder / f"run_{world}_{rank}", folder / "scenes", options).test()


def _work(rank: int, world: int, folder: Path) -> None:
    """Evaluate this process's images; write their indices and the results."""
    indices = list(DefaultSampler(range(_IMAGES), shuffle=False))
    content = dict(indices=indices, results=_evaluate(indices))
    if world < 4:
        content["halves"] = _test_halves(rank, world, folder)
    (folder / f"{world}_{rank}.json").write_text(json.dumps(content))


@pytest.fixture(scope="module")
def outputs(scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[int, list[dict]]:
    """Number of processes -> images and results of each."""
    folder = tmp_path_factory.mktemp("processes")
    (folder / "scenes").symlink_to(scenes)
    run_forked(__file__, folder)
    return {
        world: [json.loads((folder / f"{world}_{r}.json").read_text()) for r in range(world)]
        for world in (1, 2, 4)
    }


@pytest.mark.parametrize("world", [2, 4])
def test_equals_one_process(outputs: dict[int, list[dict]], world: int) -> None:
    alone = _evaluate(list(range(_IMAGES)))
    assert alone["semseg/images"] == 6
    assert alone["human_parts/images"] == 4
    assert {"semseg/mIoU", "saliency/maxF", "normals/mErr", "delta"} <= set(alone)
    assert {"edge/boundaryF", "edge/loss", "depth/rmse", "depth/delta_1"} <= set(alone)
    assert alone["edge/images"] == 5
    for output in outputs[world]:
        assert output["results"] == pytest.approx(alone, abs=1e-9, rel=0)


@pytest.mark.parametrize("world", [2, 4])
def test_sampler_repeats_an_image(outputs: dict[int, list[dict]], world: int) -> None:
    # Otherwise the test above would prove little.
    seen = [i for output in outputs[world] for i in output["indices"]]
    assert sorted(seen) == [0, *range(_IMAGES)]


def test_two_datasets_with_different_labels(outputs: dict[int, list[dict]]) -> None:
    one = outputs[1][0]["halves"]
    # five scenes: three of the first dataset, two of the second, one repeated by two processes
    assert (one["semseg/images"], one["saliency/images"], one["normals/images"]) == (3, 2, 2)
    assert one["human_parts/images"] <= 3
    assert {"semseg/mIoU", "human_parts/mIoU", "saliency/maxF", "normals/mErr"} <= set(one)
    for output in outputs[2]:
        assert output["halves"] == pytest.approx(one, abs=1e-9, rel=0)


if __name__ == "__main__":
    for _world in (4, 2, 1):
        _folder = Path(sys.argv[1])
        fork_group(_world, _folder, partial(_work, world=_world, folder=_folder))
