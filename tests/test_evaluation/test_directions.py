"""Every result declares its direction, and an evaluator's config tells which results it writes."""

import numpy as np
import pytest
import torch
from mmengine.evaluator import BaseMetric

from vmt_mm.errors import InputError
from vmt_mm.evaluation import (
    DepthMetric,
    MultiTaskEvaluator,
    SegmentationMetric,
    TaskMetric,
    relative_gain,
)
from vmt_mm.evaluation.evaluator import results_of
from vmt_mm.registry import EVALUATOR, METRICS
from vmt_mm.structures import MultiTaskDataSample
from vmt_mm.tasks import LabelSpec, Task, build_tasks

_TASKS = dict(
    floor=dict(type="Segmentation", num_classes=3, iou_metrics=["mDice", "mFscore"]),
    figure=dict(type="Saliency"),
    normals=dict(type="Normals"),
    edge=dict(type="Edge", tolerance=0.1),
    depth=dict(type="Depth"),
)
_META = dict(floor=dict(classes=("other", "wood/oak", "stone")))
_EVALUATOR = dict(type="MultiTaskEvaluator", tasks=_TASKS, metrics=[])


def _sample():
    rng = np.random.default_rng(0)
    sample = MultiTaskDataSample()
    for name, (label, prediction) in dict(
        floor=(rng.integers(0, 2, (1, 9, 9)).astype(np.uint8),) * 2,  # one class is absent
        figure=(rng.integers(0, 2, (1, 9, 9)).astype(np.uint8), rng.random((1, 9, 9))),
        edge=(rng.integers(0, 2, (1, 9, 9)).astype(np.uint8), rng.random((1, 9, 9))),
        depth=(rng.uniform(1, 9, (1, 9, 9)), rng.uniform(1, 9, (1, 9, 9))),
        normals=(rng.normal(size=(3, 9, 9)), rng.normal(size=(3, 9, 9))),
    ).items():
        sample.set_label(name, torch.from_numpy(label))
        sample.set_prediction(name, torch.from_numpy(prediction))
    return sample


def test_every_result_is_declared_in_its_order():
    reference = dict.fromkeys(_TASKS, 50.0)
    evaluator = MultiTaskEvaluator(_TASKS, reference=reference)
    evaluator.dataset_meta = _META
    evaluator.process([_sample()])
    written = list(evaluator.evaluate(1))
    declared = results_of(dict(_EVALUATOR, reference=reference), _META)
    assert set(written) <= set(declared.keys)
    # mmengine's save_best='auto' takes the first declared result
    assert written[0] == next(iter(declared.keys)) == "floor/mIoU"
    assert not declared.open
    assert not declared.missing


@pytest.mark.parametrize(
    ("key", "direction"),
    [
        ("floor/mIoU", "greater"),
        ("floor/mDice", "greater"),
        ("floor/IoU/wood/oak", "greater"),
        ("floor/absent_classes", None),
        ("figure/maxF", "greater"),
        ("figure/threshold", None),
        ("normals/mErr", "less"),
        ("normals/median", "less"),
        ("normals/within_11.25", "greater"),
        ("edge/boundaryF", "greater"),
        ("edge/loss", "less"),
        ("depth/abs_rel", "less"),
        ("depth/delta_1", "greater"),
        ("depth/images", None),
        ("delta", "greater"),
    ],
)
def test_which_way_is_better(key, direction):
    results = results_of(_EVALUATOR, _META)
    assert key in results.keys
    assert results.keys.get(key) == direction


@pytest.mark.parametrize(
    ("wrong", "right"),
    [
        ("depth/abs_re", "depth/abs_rel"),
        ("floor/mIuO", "floor/mIoU"),
        ("flor/mIoU", "floor/mIoU"),
        ("mDice", "floor/mDice"),  # as in mmseg, without a prefix
        ("figure/images", "figure/mIoU"),
        ("depth/nothing", "depth/rmse"),
    ],
)
def test_the_nearest_key_is_named(wrong, right):
    assert results_of(_EVALUATOR, _META).nearest(wrong) == right


def test_there_is_no_delta_without_a_reference():
    assert "delta" in results_of(_EVALUATOR, _META).missing


@METRICS.register_module(force=True)
class Undeclared(BaseMetric):
    """A user's metric that declares no results."""

    def process(self, data_batch, data_samples):
        """Nothing."""

    def compute_metrics(self, results):
        """Nothing."""
        return {}


@METRICS.register_module(force=True)
class MoreDepth(DepthMetric):
    """Adds a result and declares nothing."""

    def reduce(self, counts):
        """One more."""
        return dict(super().reduce(counts), log10=1.0)


def test_undeclared_metrics_may_write_anything_below_their_prefix():
    results = results_of(dict(_EVALUATOR, metrics=[dict(type="Undeclared", prefix="mine")]), {})
    assert results.may_have("mine/any")
    assert results.keys.get("mine/any") is None
    assert not results.may_have("depth/any")
    results = results_of([dict(type="MoreDepth", task="depth")], {})
    assert results.may_have("depth/log10")
    assert results.keys.get("depth/rmse") == "less"


def test_metrics_of_other_evaluators_are_asked_too():
    floor = dict(type="SegmentationMetric", task="floor", num_classes=2)
    for evaluator in (floor, [floor], dict(type="Evaluator", metrics=[floor])):
        assert results_of(evaluator, {}).keys.get("floor/mIoU") == "greater"
    dumping = results_of([floor, dict(type="DumpResults", out_file_path="x.pkl")], {})
    assert not dumping.open


@EVALUATOR.register_module(force=True)
class MeanEvaluator(MultiTaskEvaluator):
    """Adds a result and declares nothing."""

    def evaluate(self, size):
        """One more."""
        return dict(super().evaluate(size), mean=1.0)


def test_a_custom_evaluator_may_add_results():
    assert results_of(dict(_EVALUATOR, type="MeanEvaluator"), {}).may_have("mean")


class _Declared(TaskMetric):
    directions = dict(error="less")

    def measure(self, prediction, label):
        return dict(error=np.array(1.0))

    def reduce(self, counts):
        return dict(error=float(counts["error"].mean()))


class _Silent(_Declared):
    directions = None


@pytest.mark.parametrize(("kind", "higher"), [(_Declared, False), (_Silent, None)])
def test_a_task_takes_its_direction_from_its_metric(kind, higher):
    class Scored(Task):
        primary_metric = "error"
        label = LabelSpec()
        out_channels = 1

        def metric(self):
            return dict(type=kind, task=self.name)

    cfg = dict(own=dict(type=Scored))
    assert build_tasks(cfg)["own"].higher_is_better is higher
    if higher is None:
        with pytest.raises(InputError, match="_Silent.* does not declare whether a higher error"):
            MultiTaskEvaluator(cfg, reference=dict(own=1.0))
        with pytest.raises(InputError, match="does not declare"):
            relative_gain(dict(own=1.0), dict(own=2.0), build_tasks(cfg))
    else:
        gain = relative_gain(dict(own=1.0), dict(own=2.0), build_tasks(cfg))
        assert gain == pytest.approx(50)


def test_repeated_class_names_have_unique_keys():
    metric = SegmentationMetric("floor", 3)
    keys = metric.declare(dict(classes=("a", "b", "a")))
    assert {"IoU/a (0)", "IoU/b", "IoU/a (2)"} <= set(keys)
