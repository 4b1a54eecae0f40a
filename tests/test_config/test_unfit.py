"""Parts of mmseg and mmengine that have no effect, or do harm, are refused with an alternative."""

import ast
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vmt_mm.config.check import check_keys
from vmt_mm.datasets.transforms import Pad, RandomFlip, Resize
from vmt_mm.datasets.transforms.unfit import advice_on
from vmt_mm.errors import InputError
from vmt_mm.models.heads import build_head
from vmt_mm.registry import DATASETS, MODELS, TRANSFORMS
from vmt_mm.tasks import build_tasks

_TASKS = dict(floor=dict(type="Segmentation", num_classes=2))
_HEAD = dict(type="FCNHead", channels=8, num_convs=1, in_index=0)
_OURS = dict(type="MultiTaskSegmentor")


def _refused(message: str, model=None, **parts):
    with pytest.raises(InputError) as caught:
        check_keys(dict(model={**_OURS, **(model or {})}, **parts))
    assert message in str(caught.value)


@pytest.mark.parametrize(
    "given",
    [
        dict(loss_decode=dict(type="DiceLoss", loss_weight=3.0)),
        dict(sampler=dict(type="OHEMPixelSampler", thresh=0.7)),
        dict(ignore_index=0),
        dict(threshold=0.3),
    ],
)
def test_arguments_that_an_mmseg_head_would_ignore(given):
    (key,) = given
    _refused(f"model.head.{key}: FCNHead: argument {key!r} has no", dict(head={**_HEAD, **given}))
    _refused(f"model.task_heads.floor.{key}", dict(task_heads=dict(floor={**_HEAD, **given})))
    with pytest.raises(InputError, match=f"FCNHead: argument {key!r} has no effect"):
        build_head({**_HEAD, **given}, [8, 8, 8, 8], 2)


def test_losses_of_heads_are_refused_with_the_value_to_set():
    losses = [dict(type="DiceLoss", loss_weight=3.0), dict(type="CrossEntropyLoss")]
    sampler = dict(type="OHEMPixelSampler", thresh=0.7, min_kept=10)
    for loss, given in (
        (losses[0], {}),
        (losses, {}),
        (losses, dict(sampler=sampler)),
        (losses[1], dict(sampler=sampler)),
    ):
        with pytest.raises(InputError, match=r"'loss_decode' has no effect: set ") as caught:
            build_head(dict(_HEAD, loss_decode=loss, **given), [8] * 4, 2)
        value = ast.literal_eval(str(caught.value).partition("tasks.<name>.loss=")[2])
        task = build_tasks(dict(floor=dict(type="Segmentation", num_classes=2, loss=value)))
        assert len(task["floor"].losses) == len(loss if isinstance(loss, list) else [loss])
        assert value[-1].get("sampler") == given.get("sampler")
    with pytest.raises(InputError, match=r"'sampler' .*'CrossEntropyLoss', 'sampler': {'type': 'O"):
        build_head(dict(_HEAD, sampler=sampler), [8] * 4, 2)


def test_a_loss_of_a_task_is_checked_when_the_task_is_built():
    check_keys(dict(model=_OURS, tasks=dict(floor=dict(_TASKS["floor"], loss=dict(type="Dices")))))
    with pytest.raises(InputError, match="floor: `loss`: type 'Dices' is unknown"):
        build_tasks(dict(floor=dict(_TASKS["floor"], loss=dict(type="Dices"))))


@pytest.mark.parametrize("given", [dict(num_classes=19), dict(in_channels=64)])
def test_channels_of_a_head_are_those_of_the_backbone_and_the_task(given):
    with pytest.raises(InputError, match=f"head FCNHead: `{next(iter(given))}` must be .*remove"):
        build_head({**_HEAD, **given}, [8] * 4, 2)
    assert (
        build_head(dict(_HEAD, num_classes=2, in_channels=8), [8] * 4, 2).conv_seg.out_channels == 2
    )


def _mmsegs(kind: str) -> dict:
    return dict(model=dict(type="EncoderDecoder"), val_evaluator=dict(type=kind))


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        (
            dict(val_evaluator=dict(type="IoUMetric", iou_metrics=["mIoU", "mDice"])),
            "val_evaluator.type: IoUMetric does not work in a multi-task model",
        ),
        (dict(test_evaluator=[dict(type="CityscapesMetric")]), "tasks.<name>.iou_metrics=['mIoU'"),
        (dict(val_evaluator=dict(type="mmseg.DepthMetric")), "the task's own metric"),
        (
            dict(default_hooks=dict(visualization=dict(type="SegVisualizationHook", draw=True))),
            "use MultiTaskVisualizationHook",
        ),
        (
            dict(train_dataloader=dict(dataset=dict(type="ClassBalancedDataset"))),
            "type='SeededSampler', balance=",
        ),
        (
            dict(train_dataloader=dict(dataset=dict(type="mmengine.ConcatDataset"))),
            "use ConcatDataset without a scope",
        ),
        (dict(val_dataloader=dict(dataset=dict(type="ADE20KDataset"))), "use MultiTaskDataset"),
        (
            dict(optim_wrapper=dict(constructor="LearningRateDecayOptimizerConstructor")),
            "use TrainableOnlyConstructor with paramwise_cfg",
        ),
        (
            dict(optim_wrapper=dict(constructor="LayerDecayOptimizerConstructor")),
            "paramwise_cfg=dict(custom_keys=",
        ),
        (
            dict(optim_wrapper=dict(constructor="TrainableOnly")),
            "constructor is named 'TrainableOnly'",
        ),
        (
            dict(train_cfg=dict(max_epochs=1, val_intervl=1)),
            "Loop: unknown argument 'val_intervl'",
        ),
    ],
)
def test_parts_that_know_one_map(parts, message):
    _refused(message, **parts)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (dict(decode_head=_HEAD), "unknown argument 'decode_head'; set `head` for all tasks"),
        (dict(auxiliary_head=_HEAD), "auxiliary losses are not supported"),
        (dict(pretrained="x.pth"), "top-level `pretrained`"),
        (dict(backbone=dict(type="MultiTaskSwin", frozen_stages=1)), "the PEFT method decides"),
        (dict(backbone=dict(type="MultiTaskViT", init_cfg=dict())), "set `pretrained`"),
        (
            dict(data_preprocessor=dict(type="MultiTaskDataPreprocessor", size=(8, 8))),
            "resize images in the pipeline",
        ),
        (dict(data_preprocessor=dict(type="SegDataPreProcessor")), "use MultiTaskDataPreprocessor"),
    ],
)
def test_parts_of_the_model(model, message):
    _refused(message, model)


def test_mmsegs_own_models_are_left_alone():
    check_keys(
        dict(
            model=dict(type="EncoderDecoder", decode_head=dict(_HEAD, ignore_index=0)),
            val_evaluator=dict(type="IoUMetric"),
        )
    )


@pytest.mark.parametrize("kind", ["frozen_stages", "init_cfg"])
def test_an_encoder_built_in_python_refuses_too(kind):
    with pytest.raises(InputError, match=f"MultiTaskSwin: unknown argument '{kind}'"):
        MODELS.build(dict(type="MultiTaskSwin", tasks=["a"], arch="nano", **{kind: 1}))


# -- data


@pytest.fixture
def folder(tmp_path) -> Path:
    for name in ("images", "floor", "splits"):
        (tmp_path / name).mkdir()
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tmp_path / "images/a.png")
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(tmp_path / "floor/a.png")
    (tmp_path / "splits/train.txt").write_text("a\n")
    return tmp_path


def _dataset(folder, **given):
    cfg = dict(type="MultiTaskDataset", data_root=str(folder), tasks=_TASKS, **given)
    _refused_keys = [key for key in given if key not in ("pipeline", "metainfo")]
    for key in _refused_keys:
        _refused(
            f"dataset.{key}: MultiTaskDataset: unknown argument {key!r}",
            train_dataloader=dict(dataset=cfg),
        )
    return DATASETS.build(cfg)


@pytest.mark.parametrize(
    "given",
    [
        dict(data_prefix=dict(img_path="JPEGImages")),
        dict(filter_cfg=dict(min_size=99)),
        dict(reduce_zero_label=True),
        dict(img_suffix=".tif"),
        dict(ignore_index=0),
    ],
)
def test_arguments_that_a_dataset_would_ignore(folder, given):
    with pytest.raises(InputError, match=f"Dataset: unknown argument '{next(iter(given))}'; "):
        _dataset(folder, **given)


def test_arguments_that_a_dataset_reads(folder):
    cfg = dict(type="MultiTaskDataset", data_root=str(folder), tasks=_TASKS)
    short = DATASETS.build(
        dict(cfg, indices=1, serialize_data=False, lazy_init=True, max_refetch=2)
    )
    assert not short._fully_initialized
    assert len(short) == 1
    assert len(DATASETS.build(dict(type="RepeatDataset", times=3, dataset=cfg))) == 3


def test_metainfo_is_by_task(folder):
    with pytest.raises(InputError, match="metainfo must be dict.*, got classes="):
        _dataset(folder, metainfo=dict(classes=("a", "b")))


@pytest.mark.parametrize(
    ("given", "near"),
    [(dict(flor=dict(classes=("a", "b"))), "floor"), (dict(floor=dict(clases=("a",))), "classes")],
)
def test_metainfo_that_nothing_reads(folder, given, near):
    with pytest.raises(InputError, match=f"did you mean {near!r}"):
        _dataset(folder, metainfo=given)


def test_metainfo_of_a_task_that_is_left_out_stays(folder):
    classes = dict(classes=("a", "b"))
    _dataset(folder, metainfo=dict(floor=classes, floors=classes, other=dict(classes=("c",))))


@pytest.mark.parametrize(
    ("step", "instead"),
    [
        (dict(type="LoadAnnotations"), "LoadLabels"),
        (dict(type="PackSegInputs"), "PackMultiTaskInputs"),
        (dict(type="mmseg.RandomCrop", crop_size=(4, 4)), "RandomCrop without a scope"),
        (dict(type="mmcv.Resize", scale=(4, 4)), "Resize without a scope"),
        (dict(type="mmcv.LoadImageFromFile"), "LoadImageFromFile without a scope"),
        (dict(type="ResizeShortestEdge", scale=4, max_size=8), "Resize without a scope"),
        (dict(type="RandomRotate", prob=0.5, degree=9), "use RandomWarp"),
        (dict(type="RandomRotFlip"), "use RandomWarp"),
        (dict(type="RandomMosaic", prob=0.5), "use RandomWarp"),
        (dict(type="CenterCrop", crop_size=4), "use RandomCrop"),
        (
            dict(type="RandomApply", transforms=[dict(type="RandomRotate", prob=1, degree=9)]),
            "Warp",
        ),
    ],
)
def test_transforms_that_leave_labels_behind(folder, step, instead):
    pipeline = [dict(type="LoadImageFromFile"), step]
    loader = dict(dataset=dict(type="MultiTaskDataset", pipeline=pipeline))
    _refused(instead, train_dataloader=loader)
    with pytest.raises(InputError, match=instead):
        _dataset(folder, pipeline=pipeline)


def test_transforms_of_colours_are_fine(folder):
    steps = [dict(type="LoadImageFromFile"), dict(type="PhotoMetricDistortion"), dict(type="CLAHE")]
    _dataset(folder, pipeline=steps)
    assert advice_on(TRANSFORMS.get("RandomCrop")) is None  # ours


def test_arguments_that_do_nothing_to_labels():
    for make, key in (
        (lambda: RandomFlip(0.5, swap_seg_labels=[(1, 2)]), "swap_seg_labels"),
        (lambda: Resize((4, 4), clip_object_border=False), "clip_object_border"),
        (lambda: Pad(size=(4, 4), pad_val=dict(img=0, seg=0)), "pad_val"),
    ):
        with pytest.raises(InputError, match=key):
            make()
    Pad(size=(4, 4), pad_val=dict(img=0, seg=255))  # as in mmseg's configs: labels are padded so


@pytest.mark.parametrize("key", ["resume_from", "lr_config", "evaluation", "total_epochs"])
def test_top_level_keys_of_mmseg_before_1(key):
    _refused(f"{key!r} has no effect; it comes from MMSegmentation before 1.0", **{key: 1})


@pytest.mark.parametrize(
    ("given", "near"),
    [
        (dict(mp_cfg=dict(mp_start_methd="fork")), "mp_start_method"),
        (dict(dist_cfg=dict(backendd="gloo")), "backend"),
    ],
)
def test_settings_of_processes_that_nothing_reads(given, near):
    _refused(f"did you mean {near!r}", env_cfg=given)
    check_keys(dict(env_cfg=dict(mp_cfg=dict(mp_start_method="fork"), dist_cfg=dict(timeout=9))))
