"""Broken input of every kind gives a one-line error: the file or key, its value, and the rule.

Every row follows the path of a user's input: the config is loaded with options, inputs are checked,
the model, the datasets and the evaluator are built, every sample is read, weights are loaded.
"""

import copy
import functools
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from mmengine.registry import registry
from mmengine.runner import Runner
from PIL import Image

from vmt_mm.apis import load_config
from vmt_mm.cli.errors import friendly_errors
from vmt_mm.cli.launch import distributed
from vmt_mm.config.inputs import check_inputs
from vmt_mm.errors import InputError
from vmt_mm.registry import DATASETS, EVALUATOR, MODELS

PASCAL = str(Path(__file__).parents[2] / "configs" / "vmt" / "vmt_swin-t_pascal.py")
TASKS = ("semseg", "human_parts", "saliency", "normals")
SIZE = (12, 16)
#: A small model on the data in ``tmp_path``, the current folder of every test.
OPTIONS = {
    "data_root": "data",
    "image_size": (32, 32),
    "pretrained": "vmt_mm://swin_nano",
    "model.backbone.arch": "nano",
    "model.backbone.peft.ratio": 1,
    "model.head.channels": 8,
    # BaseDataset runs the garbage collector when it serialises: a quarter of a second each time
    "train_dataloader.dataset.serialize_data": False,
    "val_dataloader.dataset.serialize_data": False,
}


class Row(NamedTuple):
    """One kind of broken input.

    Attributes:
        name: the kind.
        fragments: what the message must contain.
        spoil: breaks the data folder.
        options: further ``--cfg-options``.
        config: text of a config file built on PASCAL; none uses PASCAL itself.
        world_size: number of processes.
    """

    name: str
    fragments: tuple[str, ...]
    spoil: Callable[[Path], Any] = lambda root: None
    options: dict[str, Any] = {}
    config: str | None = None
    world_size: int = 1


def _data(name: str, spoil: Callable[[Path], Any], *fragments: str, **more: Any) -> Row:
    return Row(name, fragments, spoil, **more)


def _option(name: str, options: dict[str, Any], *fragments: str, **more: Any) -> Row:
    return Row(name, fragments, options=options, **more)


def _derive(task: str, source: str, classes: list[int]) -> dict[str, Any]:
    step = dict(type="DeriveLabel", task=task, source=source, classes=classes)
    first, last = [dict(type="LoadImageFromFile"), dict(type="LoadLabels")], "PackMultiTaskInputs"
    return {"train_dataloader.dataset.pipeline": [*first, step, dict(type=last)]}


def _file(name: str, config: str, *fragments: str, **more: Any) -> Row:
    return Row(name, fragments, config=config, **more)


def _save(path: Path, values: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values).save(path)


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _cut_jpeg(root: Path) -> None:
    image = Image.open(root / "images/a.png").resize((160, 120))
    (root / "images/a.png").unlink()
    image.save(root / "images/a.jpg")
    _cut(root / "images/a.jpg")


def _text_for_image(root: Path) -> None:
    (root / "images/a.png").unlink()
    (root / "images/a.jpg").write_text("no picture\n" * 20)


def _flip_a_byte(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)


def _grey_depth(root: Path) -> None:
    for i in "abv":
        _save(root / f"depth/{i}.png", np.full(SIZE, 200, np.uint8))


def _label(name: str, shape: tuple, value: Any, kind: type = np.uint8) -> Callable[[Path], None]:
    return lambda root: _save(root / f"{name}.png", np.full(shape, value, kind))


def _split(content: str | bytes) -> Callable[[Path], None]:
    content = content.encode() if isinstance(content, str) else content
    return lambda root: (root / "splits/train.txt").write_bytes(content)


def _folder_for_file(path: Path) -> None:
    path.unlink()
    path.mkdir()


def _broken_link(path: Path) -> None:
    path.unlink()
    path.symlink_to("nowhere.png")


def _weights(content: Any) -> Callable[[Path], None]:
    def write(root: Path) -> None:
        path = root.with_name("weights.pth")
        path.write_bytes(content) if isinstance(content, bytes) else torch.save(content, path)

    return write


_NO_TASKS = {"reference": None, "default_hooks.checkpoint.save_best": None}
_MODEL_TASKS = dict(
    semseg=dict(type="Segmentation", num_classes=21),
    human_parts=dict(type="Segmentation", num_classes=7),
    saliency=dict(type="Saliency"),
    normals=dict(type="Normals"),
)
_EDGE = dict(edge=dict(type="Edge"))
_OWN_WEIGHTS = {"pretrained": "weights.pth"}
_NORMALS_RULE = "surface normals in three channels: RGB of 8 or 16 bits"
_INDEX_RULE = "class indices 0..20 or 255 in one channel"
_REFERENCE_RULE = "`reference` must give a positive score for each of"
_SIZE_RULE = "`image_size` must be two positive integers, (width, height), got "
_BATCH_RULE = "must be a positive integer, got "

ROWS = [
    # -- images
    _data(
        "empty image",
        lambda root: (root / "images/a.png").write_bytes(b""),
        "data/images/a.png",
        "the file is empty",
        "expected an image",
    ),
    _data(
        "truncated JPEG", _cut_jpeg, "data/images/a.jpg", "JPEG is truncated", "expected an image"
    ),
    _data(
        "truncated PNG image",
        lambda root: _cut(root / "images/a.png"),
        "data/images/a.png",
        "PNG is truncated",
        "expected an image",
    ),
    _data("text as image", _text_for_image, "data/images/a.jpg", "cannot be decoded", "an image"),
    _data(
        "wrong byte in an image",
        lambda root: _flip_a_byte(root / "images/a.png"),
        "data/images/a.png",
        "cannot be decoded",
    ),
    _data(
        "image of the validation",
        lambda root: (root / "images/v.png").write_bytes(b""),
        "data/images/v.png",
        "the file is empty",
    ),
    _data(
        "image that is a folder",
        lambda root: _folder_for_file(root / "images/a.png"),
        "1 id(s) without an image in data/images, the first is 'a'",
    ),
    _data(
        "image that is a broken link",
        lambda root: _broken_link(root / "images/a.png"),
        "data/images/a.png",
        "expected an image",
    ),
    # -- labels
    _data(
        "empty label",
        lambda root: (root / "semseg/a.png").write_bytes(b""),
        "data/semseg/a.png: cannot be read",
        _INDEX_RULE,
    ),
    _data(
        "truncated label",
        lambda root: _cut(root / "normals/a.png"),
        "data/normals/a.png: cannot be read",
        "truncated",
        _NORMALS_RULE,
    ),
    _data(
        "wrong byte in a label",
        lambda root: _flip_a_byte(root / "normals/a.png"),
        "data/normals/a.png: cannot be read",
        _NORMALS_RULE,
    ),
    _data(
        "label of another size",
        _label("saliency/a", (12, 15), 0),
        "data/saliency/a.png",
        "(12, 15) (height, width)",
        "data/images/a.png has (12, 16)",
    ),
    _data(
        "class id out of range",
        _label("semseg/a", SIZE, 21),
        "data/semseg/a.png",
        _INDEX_RULE,
        "got 21",
    ),
    _data(
        "16 bit where an index is expected",
        _label("semseg/a", SIZE, 300, np.uint16),
        "data/semseg/a.png",
        _INDEX_RULE,
        "got 300",
    ),
    _data(
        "colours where an index is expected",
        _label("human_parts/a", (*SIZE, 3), (1, 2, 3)),
        "data/human_parts/a.png",
        "class indices 0..6 or 255 in one channel",
        "got uint8 with 3 channel(s)",
    ),
    _data(
        "grey where normals are expected",
        _label("normals/a", SIZE, 128),
        "data/normals/a.png",
        _NORMALS_RULE,
        "got uint8 with 1 channel(s)",
    ),
    _data(
        "no valid normal",
        _label("normals/a", (*SIZE, 3), 0),
        "data/normals/a.png",
        "no pixel has a normal",
        "remove label files without any label",
    ),
    _data(
        "8-bit depth",
        _grey_depth,
        "data/depth/a.png",
        "16-bit depth in millimetres in one channel",
        "got 8-bit integers",
        options={"tasks": dict(_delete_=True, depth=dict(type="Depth")), **_NO_TASKS},
    ),
    # -- the folder and its lists
    _data("empty split", _split(" \n\n"), "data/splits/train.txt", "contains no id"),
    _data(
        "missing split",
        lambda root: (root / "splits/val.txt").unlink(),
        "data/splits/val.txt: no such split file",
        "splits/{train,val}.txt",
    ),
    _data(
        "split that is not UTF-8",
        _split("a\nGerät\n".encode("latin1")),
        "data/splits/train.txt",
        "UTF-8",
        "one id per line",
    ),
    _data(
        "id with a NUL byte",
        _split("a\nb\0c\n"),
        "data/splits/train.txt: id 'b\\x00c' must be a path below images/, without suffix",
    ),
    _data("id twice", _split("a\nb\na\n"), "data/splits/train.txt", "id 'a' is listed twice"),
    _data(
        "id without image",
        _split("a\nzz\nyy\n"),
        "data/splits/train.txt: 2 id(s) without an image in data/images",
        "'zz'",
    ),
    _data(
        "id that leads out",
        _split("a\n../images/b\n"),
        "data/splits/train.txt",
        "'../images/b' must be a path below images",
        "below images/, without suffix",
    ),
    _data(
        "absolute id",
        _split("/data/a\n"),
        "data/splits/train.txt",
        "'/data/a' must be a path below images",
    ),
    _data(
        "two images of one id",
        lambda root: Image.new("RGB", SIZE).save(root / "images/a.jpg"),
        "data/images/a.jpg",
        "data/images/a.png",
        "have the same id; remove one of them",
    ),
    _data(
        "missing data root",
        shutil.rmtree,
        "data_root 'data' is not a folder",
        "images/<id>.jpg, <task>/<id>.png and splits/{train,val}.txt",
        "--cfg-options data_root=<dataset folder>",
    ),
    _data(
        "missing task folder",
        lambda root: shutil.rmtree(root / "normals"),
        "data/normals: no folder with the labels of task 'normals'",
        "leave the task out of this dataset's `tasks`",
    ),
    _option(
        "wrong value of on_error",
        {"train_dataloader.dataset.on_error": "ignore"},
        "data: `on_error` must be 'raise' or 'skip', got 'ignore'",
    ),
    # -- tasks
    _option(
        "unknown task type",
        {"tasks.semseg.type": "Segmentaton"},
        "tasks.semseg.type",
        "is named 'Segmentaton'; did you mean 'Segmentation'?",
    ),
    _option(
        "task without a type",
        {"tasks": dict(_delete_=True, semseg=dict(num_classes=21)), **_NO_TASKS},
        "task 'semseg': unknown type None",
        "known: Depth, Edge, Normals, Saliency, Segmentation",
    ),
    _option(
        "task name",
        {"tasks": {"_delete_": True, "sem-seg": dict(type="Saliency")}, **_NO_TASKS},
        "task name 'sem-seg' must be a valid identifier",
    ),
    _option(
        "reserved task name",
        {"tasks": dict(_delete_=True, items=dict(type="Saliency")), **_NO_TASKS},
        "task name 'items' must be a valid identifier that is not reserved",
    ),
    _option("no task", {"tasks": dict(_delete_=True), **_NO_TASKS}, "`tasks` must map names", "{}"),
    _option(
        "tasks that are a list",
        {"tasks": ["semseg"]},
        "`tasks` must map names",
        "['semseg']",
    ),
    _option(
        "head of an absent task",
        {"model.task_heads": dict(foo=dict(type="MLPHead"))},
        "`task_heads` has unknown task(s) ['foo']",
        str(list(TASKS)),
    ),
    _option(
        "metric of an absent task",
        {
            "val_evaluator.metrics": [
                dict(type="SegmentationMetric", task="foo", num_classes=3),
            ]
        },
        "val_evaluator: SegmentationMetric has unknown task(s) ['foo']",
        f"the model has {list(TASKS)}",
    ),
    _option(
        "evaluator of other tasks",
        {"val_evaluator.tasks": _EDGE},
        "val_evaluator: MultiTaskEvaluator has unknown task(s) ['edge']",
        f"the model has {list(TASKS)}",
    ),
    _option(
        "dataset of other tasks",
        {"train_dataloader.dataset.tasks": _EDGE},
        "train_dataloader (data) has unknown task(s) ['edge']",
        f"the model has {list(TASKS)}",
    ),
    _option(
        "derived label of an absent task",
        _derive(task="foo", source="semseg", classes=[0] * 21),
        "train_dataloader: DeriveLabel has unknown task(s) ['foo']",
        f"the model has {list(TASKS)}",
    ),
    _option(
        "derived classes beyond those of the tasks",
        _derive(task="human_parts", source="semseg", classes=[0] * 19 + [255, 7]),
        "train_dataloader: DeriveLabel: class 7 in `classes`, but task 'human_parts' has 7 classes",
    ),
    _option(
        "derived classes of another number",
        _derive(task="human_parts", source="semseg", classes=[0]),
        "DeriveLabel: `classes` has 1 value(s), but task 'semseg' has 21 classes",
    ),
    _option(
        "model and data disagree on a task",
        {"model.tasks": dict(_MODEL_TASKS, human_parts=dict(type="Segmentation", num_classes=5))},
        "human_parts",
        "5",
        "7",
    ),
    _option(
        "backbone of other tasks",
        {"model.backbone.tasks": ["semseg"]},
        f"model.backbone.tasks must equal the model's tasks {list(TASKS)}, got ['semseg']",
    ),
    _option(
        "reference of fewer tasks",
        {"reference": dict(_delete_=True, semseg=60.0)},
        _REFERENCE_RULE,
        str(list(TASKS)),
        "{'semseg': 60.0}",
    ),
    _option(
        "reference of an absent task", {"reference": dict(edge=60.0)}, _REFERENCE_RULE, "'edge'"
    ),
    _option("reference of 0", {"reference.semseg": 0}, _REFERENCE_RULE, "'semseg': 0"),
    _option(
        "reference that is not a number",
        {"reference.semseg": "60"},
        _REFERENCE_RULE,
        "'semseg': '60'",
    ),
    _option(
        "best checkpoint by an absent task",
        {"default_hooks.checkpoint.save_best": "foo/mIoU"},
        "default_hooks.checkpoint.save_best: no metric in val_evaluator computes 'foo/mIoU'",
        "did you mean",
    ),
    _option(
        "number of class names",
        {"train_dataloader.dataset.metainfo": dict(semseg=dict(classes=("a", "b")))},
        "data: metainfo of task 'semseg': `classes` must list 21 names",
        "num_classes=21",
    ),
    _option(
        "too few classes",
        {"tasks.human_parts.num_classes": 1},
        "human_parts: `num_classes` must be an int in [2, 255], got 1",
    ),
    _option(
        "too many classes",
        {"tasks.semseg.num_classes": 256},
        "semseg: `num_classes` must be an int in [2, 255], got 256",
    ),
    _option(
        "classes that are not a number",
        {"tasks.semseg.num_classes": "21"},
        "semseg: `num_classes` must be an int in [2, 255], got '21'",
    ),
    _option(
        "treatment of absent classes",
        {"tasks.semseg.absent": "drop"},
        "semseg: `absent` must be 'skip' or 'zero', got 'drop'",
    ),
    _option(
        "weight of edges",
        {"tasks": dict(_delete_=True, edge=dict(type="Edge", positive_weight=2)), **_NO_TASKS},
        "edge: `positive_weight` must be in (0, 1), got 2",
    ),
    # -- keys that nothing reads
    _option(
        "misspelt option",
        {"image_szie": (32, 32)},
        "option 'image_szie'",
        "did you mean 'image_size'",
    ),
    _option(
        "misspelt first part of an option",
        {"modle.backbone.arch": "nano"},
        "option 'modle'",
        "did you mean 'model'",
    ),
    _file(
        "misspelt variable of a file",
        "image_szie = (32, 32)\n",
        "the config's top-level 'image_szie' has no effect",
        "did you mean 'image_size'",
    ),
    _file(
        "misspelt section of a file",
        "train_datalaoder = dict(num_workers=1)\n",
        "the config's top-level 'train_datalaoder' has no effect",
        "did you mean 'train_dataloader'",
    ),
    _option(
        "misspelt key of the model",
        {"model.bakbone": dict(arch="nano")},
        "model.bakbone: MultiTaskSegmentor: unknown argument 'bakbone'",
        "did you mean 'backbone'",
    ),
    _option(
        "misspelt key of a loader",
        {"train_dataloader.num_worker": 2},
        "train_dataloader",
        "unknown argument 'num_worker'; did you mean 'num_workers'",
    ),
    _option(
        "misspelt key of the optimizer",
        {"optim_wrapper.optimizer.weight_deacy": 0.1},
        "optim_wrapper.optimizer.weight_deacy: Adam: unknown argument 'weight_deacy'",
        "did you mean 'weight_decay'",
    ),
    _option(
        "misspelt key of a hook",
        {"default_hooks.logger.intervl": 2},
        "default_hooks.logger.intervl: LoggerHook: unknown argument 'intervl'",
        "did you mean 'interval'",
    ),
    _option(
        "misspelt hook",
        {"default_hooks.chekpoint.interval": 2},
        "default_hooks.chekpoint has no `type`",
        "did you mean 'checkpoint'",
    ),
    _option(
        "misspelt key of a transform",
        {"train_dataloader.dataset.pipeline.2.rotat": (1, 2)},
        "train_dataloader.dataset.pipeline[2].rotat: RandomWarp: unknown argument 'rotat'",
        "did you mean 'rotate'",
    ),
    _option(
        "misspelt key of a dataset",
        {"val_dataloader.dataset.anfile": "x"},
        "val_dataloader.dataset.anfile",
        "did you mean 'ann_file'",
    ),
    _option(
        "misspelt key of a task",
        {"tasks.semseg.loss_wieght": 2},
        "tasks.semseg.loss_wieght: Segmentation: unknown argument 'loss_wieght'",
        "did you mean 'loss_weight'",
    ),
    _option(
        "misspelt key of the PEFT method",
        {"model.backbone.peft.ratoi": 2},
        "model.backbone.peft.ratoi: VMTAdapter: unknown argument 'ratoi'",
        "did you mean 'ratio'",
    ),
    _option(
        "misspelt key of gradient clipping",
        {"optim_wrapper.clip_grad": dict(max_nrom=2)},
        "optim_wrapper.clip_grad",
        "unknown argument 'max_nrom'; did you mean 'max_norm'",
    ),
    _option(
        "misspelt key of randomness",
        {"randomness.sed": 2},
        "randomness",
        "unknown argument 'sed'; did you mean 'seed'",
    ),
    _option(
        "misspelt key of the log processor",
        {"log_processor.windw_size": 2},
        "log_processor",
        "unknown argument 'windw_size'; did you mean 'window_size'",
    ),
    _option(
        "unknown type",
        {"train_dataloader.dataset.pipeline.2.type": "RandomWrap"},
        "train_dataloader.dataset.pipeline[2].type",
        "is named 'RandomWrap'",
        "did you mean 'RandomWarp'",
    ),
    _option(
        "type of another kind",
        {"custom_hooks": [dict(type="Resize")]},
        "custom_hooks[0].type",
        "'Resize'",
    ),
    # -- sizes and batches
    *(
        _option(f"image size {size!r}", {"image_size": size}, _SIZE_RULE + repr(size))
        for size in (32, (0, 32), ("32", "32"), (32,), (32.5, 32))
    ),
    _option("no image size", {"image_size": None}, "image_size", "None"),
    *[
        _option(name, {key: value}, key.split(".")[0], rule)
        for name, key, value, rule in (
            ("workers below 0", "train_dataloader.num_workers", -1, "non-negative integer"),
            (
                "validation without a batch",
                "val_dataloader.batch_size",
                None,
                "integer, got None",
            ),
            (
                "interval of 0",
                "train_cfg.val_interval",
                0,
                "train_cfg.val_interval must be a positive",
            ),
            ("no epoch", "train_cfg.max_epochs", "x", "must be a positive integer, got 'x'"),
            ("file given as resume", "resume", "x.pth", "'x.pth'; set the file as load_from"),
            ("key of the environment", "env_cfg.cudnn_benchmrak", True, "mean 'cudnn_benchmark'"),
        )
    ],
    _option(
        "task of another kind",
        {"model.tasks": dict(_MODEL_TASKS, saliency=dict(type="Edge"))},
        "task 'saliency' is Saliency with 1 channels, but Edge with 1",
    ),
    _option(
        "negative weight", {"tasks.semseg.loss_weight": -1}, "semseg: `loss_weight` must be", "-1"
    ),
    _option("no image in a batch", {"total_batch_size": 0}, f"total_batch_size {_BATCH_RULE}0"),
    _option(
        "batch that does not divide",
        {"total_batch_size": 12},
        "total_batch_size=12 must be divisible by the 5 processes",
        "set train_dataloader.batch_size, which is per process",
        world_size=5,
    ),
    _option(
        "no batch size at all",
        {"total_batch_size": None},
        f"total_batch_size {_BATCH_RULE}None",
    ),
    _option(
        "training batch of none",
        {"train_dataloader.batch_size": None},
        f"train_dataloader.batch_size {_BATCH_RULE}None",
    ),
    _option(
        "validation batch of 0",
        {"val_dataloader.batch_size": 0},
        f"val_dataloader.batch_size {_BATCH_RULE}0",
    ),
    # -- the model
    _option(
        "gate", {"model.backbone.peft.gate": 1.5}, "VMTAdapter: `gate` must be in [0, 1], got 1.5"
    ),
    _option(
        "gate that cannot learn",
        {"model.backbone.peft.gate": 1, "model.backbone.peft.learnable_gate": True},
        "`gate` must be in (0, 1) with learnable_gate=True, got 1",
    ),
    _option(
        "ratio",
        {"model.backbone.peft.ratio": 3},
        "VMTAdapter: `ratio` must be a positive integer that divides the channels of every block",
        "got 3 for a block of 20 channels",
    ),
    _option("no ratio", {"model.backbone.peft.ratio": 0}, "`ratio` must be a positive", "got 0"),
    _option(
        "ratio that is not a number",
        {"model.backbone.peft.ratio": "2"},
        "`ratio` must be a positive integer",
        "'2'",
    ),
    _option(
        "unknown PEFT method",
        {"model.backbone.peft.type": "VMTAdaptr"},
        "model.backbone.peft.type",
        "'VMTAdaptr'; did you mean 'VMTAdapter'",
    ),
    _option(
        "PEFT method without a type",
        {"model.backbone.peft": dict(_delete_=True)},
        "peft: unknown type None; known: Adapter, BitFit, DecodersOnly, ",
    ),
    _option(
        "recomputation within a method",
        {"activation_checkpointing": ["backbone.stages.0"]},
        "activation_checkpointing: with a PEFT method, set model.backbone.with_cp instead",
    ),
    _option(
        "unknown architecture",
        {"model.backbone.arch": "tny"},
        "MultiTaskSwin: `arch` must be in ['nano', 'tiny', 'small', 'base', 'large'], got 'tny'",
    ),
    _option(
        "unknown head", {"model.head.type": "MLPHed"}, "model.head.type", "'MLPHed'; did you mean"
    ),
    _option("head without a type", {"model.head": dict(_delete_=True)}, "head: unknown type None"),
    _option(
        "prediction of an absent task",
        {"model.test_cfg": dict(tasks=["foo"])},
        "unknown task(s) ['foo']",
        str(list(TASKS)),
    ),
    _option(
        "turned-round range",
        {"train_dataloader.dataset.pipeline.2.rotate": (20, -20)},
        "RandomWarp",
        "low <= high in rotate",
        "rotate=(20, -20)",
    ),
    _option(
        "labels after the move",
        {
            "train_dataloader.dataset.pipeline": [
                dict(type=kind)
                for kind in ("LoadImageFromFile", "RandomWarp", "LoadLabels", "PackMultiTaskInputs")
            ]
        },
        "LoadLabels must come before geometric transforms except Resize and Pad",
    ),
    # -- weights
    _option(
        "missing weights",
        {"pretrained": "none.pth"},
        "pretrained weights 'none.pth' do not exist",
        "--cfg-options pretrained=<weights file>",
    ),
    _option(
        "missing weights of the package",
        {"pretrained": "vmt_mm://swin_nanno"},
        "pretrained weights 'vmt_mm://swin_nanno' do not exist",
    ),
    _data(
        "damaged weights",
        _weights(b"PK\x03\x04 and no more"),
        "weights.pth: cannot be read as weights",
        options=_OWN_WEIGHTS,
    ),
    _data(
        "weights that are none",
        _weights({"epoch": 3}),
        "weights.pth: contains no tensors",
        options=_OWN_WEIGHTS,
    ),
    _option(
        "weights of another size",
        {"model.backbone.arch": "tiny"},
        "vmt_mm://swin_nano does not fit the backbone",
        "patch_embed.projection.weight (20, 3, 4, 4) (model: (96, 3, 4, 4))",
    ),
    _data(
        "weights of another architecture",
        _weights({"conv1.weight": torch.zeros(1), "layer1.0.conv1.weight": torch.zeros(1)}),
        "weights.pth",
        "is not a Swin checkpoint",
        "keys like conv1.weight, layer1.0.conv1.weight",
        options=_OWN_WEIGHTS,
    ),
    _option(
        "random weights that were not asked for",
        {"pretrained": None},
        "the backbone has no pretrained weights: set `pretrained`",
        "`allow_random_backbone=True`",
    ),
    _option("missing checkpoint", {"load_from": "none.pth"}, "none.pth: no such checkpoint"),
    _option("sync_bn without a GPU", {"sync_bn": "torch"}, "sync_bn='torch' needs GPUs"),
    _option(
        "mmengine's mixed precision without an accelerator",
        {"optim_wrapper.type": "AmpOptimWrapper"},
        "AmpOptimWrapper needs an accelerator",
    ),
    # -- the rest
    _file(
        "variable that has no effect",
        "".join(f"{n}_dataloader = dict(dataset=dict(data_root='x'))\n" for n in ("train", "val"))
        + "test_dataloader = dict(dataset=dict(data_root='x'))\n",
        "the top-level data_root='data' has no effect",
        "set it there",
    ),
    _file("syntax of a file", "x = (\n", "own.py", "line 2"),
    _file("unknown name in a file", "x = yy\n", "own.py", "'yy'"),
    _file("missing base", "_base_ = 'none.py'\n", "own.py", "none.py"),
    _file("missing import", "import nopackage\n", "own.py", "nopackage"),
]


@pytest.fixture(scope="module")
def intact_data(tmp_path_factory):
    """Two training images and one validation image, with all labels."""
    root, rng = tmp_path_factory.mktemp("intact") / "data", np.random.default_rng(0)
    for i in "abv":
        for folder in ("images", "normals"):
            _save(root / folder / f"{i}.png", rng.integers(1, 256, (*SIZE, 3), np.uint8))
        for task, values in dict(semseg=21, human_parts=7, saliency=256).items():
            _save(root / task / f"{i}.png", rng.integers(0, values, SIZE, np.uint8))
    (root / "splits").mkdir()
    (root / "splits/train.txt").write_text("a\nb\n")
    (root / "splits/val.txt").write_text("v\n")
    return root


@pytest.fixture(autouse=True)
def root(intact_data, tmp_path, monkeypatch):
    """A copy of the data to damage, in the current folder; a machine without a GPU."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    return Path(shutil.copytree(intact_data, "data"))


@pytest.fixture(autouse=True, scope="module")
def fast_lookups():
    """Cache module look-ups: every registry tries to import a name that it does not know."""
    with pytest.MonkeyPatch.context() as patch:
        found = functools.cache(registry.get_object_from_string)
        patch.setattr(registry, "get_object_from_string", found)
        yield


@functools.cache
def _standard_config():
    # Rows that damage data share the config: loading it takes longer than the rest of such a row.
    return load_config(PASCAL, OPTIONS)


@functools.cache
def _standard_model():
    return MODELS.build(copy.deepcopy(_standard_config().model))


def _use(row: Row, config: str) -> None:
    """The steps of a training before its first iteration."""
    if row.options or row.config is not None or row.world_size > 1:
        options = copy.deepcopy({**OPTIONS, **row.options})  # merging takes `_delete_` out
        cfg, build = load_config(config, options, row.world_size), MODELS.build
    else:
        cfg, build = copy.deepcopy(_standard_config()), lambda _: _standard_model()
    check_inputs(cfg, training=True)
    model = build(cfg.model)
    for loader in (cfg.train_dataloader, cfg.val_dataloader):
        dataset = DATASETS.build(loader.dataset)
        for index in range(len(dataset)):
            dataset[index]
    EVALUATOR.build(cfg.val_evaluator)
    model.init_weights()


def _files() -> set[tuple[str, int]]:
    return {(str(path), path.lstat().st_mtime_ns) for path in Path().rglob("*")}


def test_the_intact_input_is_accepted():
    # Otherwise, rows could fail for another reason than theirs.
    before = _files()
    _use(Row("intact", ()), PASCAL)
    _use(Row("intact", (), options={"total_batch_size": 2}), PASCAL)
    assert _files() == before


def test_the_table_is_long_and_its_names_are_different():
    assert len({row.name for row in ROWS}) == len(ROWS) >= 35


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_broken_input_is_named_in_one_line(row, root):
    row.spoil(root)
    config = PASCAL
    if row.config is not None:
        config = "own.py"
        base = "" if "_base_" in row.config else f"_base_ = {PASCAL!r}\n"
        Path(config).write_text(base + row.config)
    before = _files()
    with pytest.raises(InputError) as caught:
        _use(row, config)
    message = str(caught.value)
    assert [fragment for fragment in row.fragments if fragment not in message] == []
    lines = message.split("\nerror: ")
    assert all(line.strip() and "\n" not in line for line in lines), message
    # Nothing is written before the input is checked: no work dir, no partial file.
    assert _files() == before


def test_a_missing_config_is_named():
    for path in ("none.py", "data"):
        with pytest.raises(InputError, match=f"^{path}: no such config file$"):
            load_config(path)


def test_problems_are_listed_together(root):
    shutil.rmtree(root)
    options = {**OPTIONS, "image_size": 3, "pretrained": "none.pth", "resume": 1}
    with pytest.raises(InputError) as caught:
        check_inputs(load_config(PASCAL, options), training=True)
    lines = str(caught.value).split("\nerror: ")
    starts = ("`image_size` must", "`resume` must", "data_root 'data'", "pretrained weights 'none")
    assert len(lines) == len(starts)
    assert all(line.startswith(start) for line, start in zip(lines, starts, strict=True))


def _printed(capsys) -> str:
    output = capsys.readouterr()
    assert output.out == ""
    return output.err


def test_the_tools_only_print_the_message(root, capsys):
    (root / "images/a.png").write_bytes(b"")
    with pytest.raises(SystemExit) as caught, friendly_errors():
        _use(Row("empty image", ()), PASCAL)
    assert caught.value.code == 1
    expected = "error: data/images/a.png: the file is empty; expected an image\n"
    assert _printed(capsys).endswith(expected)


@pytest.mark.parametrize("name", ["images/a", "semseg/a"])
def test_an_error_in_a_data_loading_process_is_one_line(root, capsys, name):
    (root / f"{name}.png").write_bytes(b"")
    dataset = DATASETS.build(_standard_config().train_dataloader.dataset)
    loader = Runner.build_dataloader(
        dict(dataset=dataset, batch_size=1, num_workers=1, sampler=dict(type="SeededSampler"))
    )
    capsys.readouterr()
    batches = iter(loader)
    with pytest.raises(SystemExit), friendly_errors():
        list(batches)
    batches._shutdown_workers()  # garbage collection would wait five seconds for them
    printed = _printed(capsys)
    assert printed.startswith(f"error: data/{name}.png: ")
    assert printed.count("\n") == 1


def test_an_unknown_launcher_is_refused(capsys):
    with pytest.raises(SystemExit) as caught, distributed("mpi"):
        pass
    assert caught.value.code == 1
    line = "error: launcher must be one of ('none', 'pytorch', 'slurm'), got 'mpi'\n"
    assert _printed(capsys) == line


def test_a_path_that_leads_nowhere_is_one_line(root, capsys):
    (root / "file").write_text("x")
    with pytest.raises(SystemExit) as caught, friendly_errors():
        (root / "file" / "below").write_text("y")
    assert caught.value.code == 1
    assert _printed(capsys).endswith("file/below: Not a directory\n")
    with pytest.raises(OSError, match="beyond repair"), friendly_errors():
        raise OSError("beyond repair")  # errors that do not concern a path keep their traceback
