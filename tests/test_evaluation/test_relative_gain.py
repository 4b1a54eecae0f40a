"""Tests of Delta and of the evaluator of all tasks."""

import pytest
import torch

from vmt_mm.errors import InputError
from vmt_mm.evaluation import MultiTaskEvaluator, relative_gain
from vmt_mm.registry import TASKS
from vmt_mm.structures import MultiTaskDataSample
from vmt_mm.tasks import LabelSpec, Task, build_tasks

_SCORED = dict(
    semseg=dict(type="Segmentation", num_classes=3),
    human_parts=dict(type="Segmentation", num_classes=3, skip_background=True),
    saliency=dict(type="Saliency"),
    normals=dict(type="Normals"),
)
_UNSCORED = dict(edge=dict(type="Unscored"), depth=dict(type="Unscored"))


@TASKS.register_module(force=True)
class Unscored(Task):
    """A task without a metric."""

    label = LabelSpec()
    out_channels = 1


def _of_tasks(*scores: float) -> dict[str, float]:
    return dict(zip(_SCORED, scores, strict=True))


#: Single-task full fine-tuning in the paper's table.
_REFERENCE = _of_tasks(67.21, 61.93, 62.35, 17.97)


@pytest.mark.parametrize(
    ("scores", "delta"),
    [
        ((71.60, 60.67, 64.02, 16.41), 3.96),  # VMT-Adapter
        ((70.21, 59.15, 62.29, 19.26), -1.83),  # Shared Adapter
        ((71.34, 59.95, 63.48, 16.82), 2.79),  # VMT-Adapter, rho = 8
        ((67.21, 61.93, 62.35, 17.97), 0),
    ],
)
def test_rows_of_the_paper(scores: tuple[float, ...], delta: float) -> None:
    gain = relative_gain(_of_tasks(*scores), _REFERENCE, build_tasks(_SCORED))
    assert gain == pytest.approx(delta, abs=0.01)


@pytest.mark.parametrize(("task", "sign"), [("semseg", 1), ("saliency", 1), ("normals", -1)])
def test_direction(task: str, sign: int) -> None:
    # One of four scores is a tenth higher: a quarter of 10 %.
    scores = {**_REFERENCE, task: 1.1 * _REFERENCE[task]}
    gain = relative_gain(scores, _REFERENCE, build_tasks(_SCORED))
    assert gain == pytest.approx(sign * 2.5)


def _sample(*unlabelled: str) -> MultiTaskDataSample:
    sample = MultiTaskDataSample()
    classes = torch.tensor([[[0, 1, 2, 1]]], dtype=torch.uint8)
    values = dict(
        semseg=classes,
        human_parts=classes,
        saliency=(classes > 0).to(torch.uint8),
        normals=torch.tensor([0.6, 0.0, 0.8]).view(3, 1, 1).expand(3, 1, 4).clone(),
        edge=torch.zeros(1, 1, 4, dtype=torch.uint8),
        depth=torch.ones(1, 1, 4),
    )
    for name, value in values.items():
        if name not in unlabelled:
            sample.set_label(name, value)
        is_class = name in ("semseg", "human_parts")
        sample.set_prediction(name, value.flip(-1) if is_class else value.float())
    return sample


def _evaluate(evaluator: MultiTaskEvaluator, *unlabelled: str) -> dict[str, float]:
    evaluator.process([_sample(*unlabelled)])
    return evaluator.evaluate(1)


def test_names_and_delta() -> None:
    results = _evaluate(MultiTaskEvaluator({**_SCORED, **_UNSCORED}, reference=_REFERENCE))
    # Labels 0 1 2 1, predictions 1 2 1 0: IoU 0 everywhere. Saliency and normals are exact.
    assert results["semseg/mIoU"] == 0
    assert results["human_parts/mIoU"] == 0
    assert results["saliency/mIoU"] == 100
    assert results["saliency/maxF"] == 100
    assert results["normals/mErr"] == pytest.approx(0, abs=1e-4)
    expected = 100 / 4 * (-1 - 1 + (100 - 62.35) / 62.35 + 1)
    assert results["delta"] == pytest.approx(expected, abs=1e-3)
    assert {key.split("/")[0] for key in results} == {*_SCORED, "delta"}


@pytest.mark.parametrize("reference", [None, {}])
def test_no_delta_without_reference(reference: dict | None) -> None:
    results = _evaluate(MultiTaskEvaluator(_SCORED, reference=reference))
    assert "delta" not in results
    assert "semseg/mIoU" in results


def test_no_delta_where_a_task_has_no_score() -> None:
    results = _evaluate(MultiTaskEvaluator(_SCORED, reference=_REFERENCE), "normals")
    assert "normals/mErr" not in results
    assert "delta" not in results
    assert "semseg/mIoU" in results


def test_tasks_without_metrics_only() -> None:
    assert _evaluate(MultiTaskEvaluator(_UNSCORED)) == {}


@pytest.mark.parametrize(
    "change",
    [
        {"edge": 70.0},  # a task without a metric
        {"sky": 70.0},
        {"normals": None},  # missing
        {"normals": 0.0},
        {"semseg": -1.0},
        {"semseg": float("nan")},
    ],
)
def test_wrong_reference(change: dict) -> None:
    reference = {k: v for k, v in {**_REFERENCE, **change}.items() if v is not None}
    with pytest.raises(InputError, match="reference.*human_parts"):
        MultiTaskEvaluator({**_SCORED, **_UNSCORED}, reference=reference)
