"""Objects built from Python are of this project's classes, whatever the default scope."""

from collections import OrderedDict

import numpy as np
import pytest
from mmengine.dataset import RepeatDataset
from mmengine.evaluator import Evaluator
from mmengine.registry import DefaultScope, init_default_scope
from mmengine.runner import Runner
from PIL import Image

from vmt_mm.datasets import ConcatDataset, MultiTaskDataset, PASCALContextMT
from vmt_mm.datasets.transforms import TestTimeAug
from vmt_mm.engine.runner import MultiTaskRunner
from vmt_mm.evaluation import MultiTaskEvaluator
from vmt_mm.models import MultiTaskSegmentor, MultiTaskTTAModel
from vmt_mm.registry import DATASETS, EVALUATOR, HOOKS, METRICS, MODELS, RUNNERS, TASKS, TRANSFORMS

FLIPS = [[dict(type="RandomFlip", prob=0.0), dict(type="RandomFlip", prob=1.0)]]
PIPELINE = [
    dict(type="LoadImageFromFile"),
    dict(type="LoadLabels"),
    dict(type="RandomFlip", prob=0.5),
    dict(type="Resize", scale=(16, 16)),
    dict(type="Pad", size=(16, 16)),
    dict(type="PackMultiTaskInputs"),
]
MODEL = dict(
    type="MultiTaskSegmentor",
    tasks=dict(floor=dict(type="Segmentation", num_classes=2)),
    data_preprocessor=dict(type="MultiTaskDataPreprocessor"),
    backbone=dict(type="MultiTaskSwin", arch="nano", allow_random_backbone=True),
    head=dict(type="MLPHead", channels=8),
)


@pytest.fixture(params=[None, "mmseg", "mmengine", "vmt_mm"])
def scope(request, monkeypatch):
    """The default scope set by another library."""
    monkeypatch.setattr(DefaultScope, "_instance_dict", OrderedDict())
    if request.param:
        init_default_scope(request.param)
    yield request.param
    current = DefaultScope.get_current_instance()
    assert (current and current.scope_name) == request.param


@pytest.fixture
def entry(tmp_path):
    """A dataset with one task."""
    for name, shape in (("images", (12, 8, 3)), ("floor", (12, 8))):
        (tmp_path / name).mkdir()
        Image.fromarray(np.zeros(shape, np.uint8)).save(tmp_path / name / "a.png")
    (tmp_path / "splits").mkdir()
    (tmp_path / "splits" / "train.txt").write_text("a")
    return dict(
        data_root=str(tmp_path), tasks=MODEL["tasks"], pipeline=PIPELINE, serialize_data=False
    )


def _homes(transforms):
    return {type(step).__module__.partition(".")[0] for step in transforms}


def test_datasets(scope, entry):
    typed = dict(entry, type="MultiTaskDataset")
    built = [
        MultiTaskDataset(**entry),
        PASCALContextMT(**entry),
        DATASETS.build(typed),
        ConcatDataset([typed]).datasets[0],
        DATASETS.build(dict(type="ConcatDataset", datasets=[typed])).datasets[0],
        DATASETS.build(dict(type="RepeatDataset", times=2, dataset=typed)).dataset,
        RepeatDataset(MultiTaskDataset(**entry), 2).dataset,
        MultiTaskRunner.build_dataloader(
            dict(batch_size=1, num_workers=0, dataset=typed, sampler=dict(type="DefaultSampler"))
        ).dataset,
    ]
    for dataset in built:
        assert _homes(dataset.pipeline.transforms) == {"vmt_mm"}
        assert dataset[0]["data_samples"].label("floor").shape == (1, 16, 16)


def test_transforms(scope):
    compose = TRANSFORMS.build(dict(type="Compose", transforms=PIPELINE))
    choice = TRANSFORMS.build(dict(type="RandomChoice", transforms=[PIPELINE]))
    for steps in (compose.transforms, choice.transforms[0].transforms):
        assert _homes(steps) == {"vmt_mm"}
    for versions in (
        TestTimeAug(FLIPS),
        TRANSFORMS.build(dict(type="TestTimeAug", transforms=FLIPS)),
    ):
        assert _homes([versions, *(t for s in versions.subroutines for t in s.transforms)]) == {
            "vmt_mm"
        }


def test_models(scope):
    parts = {key: value for key, value in MODEL.items() if key != "type"}
    models = [
        MODELS.build(MODEL),
        MultiTaskSegmentor(**parts),
        MultiTaskTTAModel(dict(MODEL)).module,
        MODELS.build(dict(type="MultiTaskTTAModel", module=dict(MODEL))).module,
    ]
    for model in models:
        assert _homes([model, model.data_preprocessor, model.backbone, *model.heads.values()]) == {
            "vmt_mm"
        }


def test_the_rest(scope):
    metric = dict(type="SegmentationMetric", task="floor", num_classes=2)
    evaluator = EVALUATOR.build(dict(type="Evaluator", metrics=[metric]))
    assert isinstance(evaluator, Evaluator)
    ours = MultiTaskEvaluator(MODEL["tasks"], metrics=[dict(metric, task="floor")])
    assert _homes([*ours.metrics, *evaluator.metrics, METRICS.build(metric)]) == {"vmt_mm"}
    assert _homes([TASKS.build(dict(type="Depth", name="depth"))]) == {"vmt_mm"}
    assert _homes([HOOKS.build(dict(type="LabelReportHook"))]) == {"vmt_mm"}


def test_a_name_of_another_library_means_that_library(scope):
    steps = TRANSFORMS.build(dict(type="Compose", transforms=[dict(type="mmseg.PackSegInputs")]))
    assert _homes(steps.transforms) == {"mmseg"}
    resize = TRANSFORMS.build(dict(type="Resize", scale=(8, 8), _scope_="mmseg"))
    assert _homes([resize]) == {"mmseg"} or _homes([resize]) == {"mmcv"}


def test_a_runner_keeps_its_scope_after_it_was_built(monkeypatch, tmp_path):
    monkeypatch.setattr(DefaultScope, "_instance_dict", OrderedDict())
    cfg = dict(
        runner_type="MultiTaskRunner",
        model=MODEL,
        work_dir=str(tmp_path),
        experiment_name=tmp_path.name,
    )
    runner = RUNNERS.build(cfg)
    assert isinstance(runner, Runner)
    assert DefaultScope.get_current_instance().scope_name == "vmt_mm"
