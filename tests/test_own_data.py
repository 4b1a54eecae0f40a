"""Parse the configs of docs/data.md, and run its commands on small folders."""

import os
import re
import shlex
from pathlib import Path

import cv2
import numpy as np
import pytest
from commands import ROOT

from vmt_mm.apis import load_config
from vmt_mm.config.inputs import check_inputs
from vmt_mm.errors import InputError
from vmt_mm.registry import DATASETS
from vmt_mm.rendering import write_dataset

PAGE = (ROOT / "docs/data.md").read_text()
CONFIGS = dict(
    zip(("my_rooms.py", "rooms_and_photos.py"), re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL),
        strict=True)
)  # fmt: skip
#: Without the converters, which need archives: tests/test_conversion runs those on small ones.
COMMANDS = re.findall(r"^python (tools/(?!dataset_converters/).*)$", PAGE, re.MULTILINE)
#: Options for seconds instead of hours.
SMALL = [
    "model.backbone.arch=nano",
    "model.head.channels=8",
    "image_size=32,32",
    "train_cfg.max_epochs=1",
    *(f"{name}_dataloader.num_workers=0" for name in ("train", "val", "test")),
    *(f"{name}_dataloader.persistent_workers=False" for name in ("train", "val", "test")),
]
RENDERED = ["render.train=8", "render.val=2", "render.size=32"]


def _remap(folder, classes):
    for file in folder.iterdir():
        cv2.imwrite(str(file), cv2.imread(str(file), cv2.IMREAD_UNCHANGED) % classes)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The page's folders and files, next to links to the repository's."""
    folder = tmp_path_factory.mktemp("own")
    for number, (name, task, classes) in enumerate(
        (("rooms", "floor", 3), ("photos", "people", 2))
    ):
        root = folder / f"data/my_{name}"
        write_dataset(root, train=6 - 2 * number, val=2, size=32, seed=number, workers=1)
        (root / "semseg").rename(root / task)
        _remap(root / task, classes)
    for name, text in CONFIGS.items():
        (folder / name).write_text(text)
    for name in ("configs", "tools"):
        (folder / name).symlink_to(ROOT / name)
    return folder


@pytest.fixture(autouse=True)
def _work_in_folder(folder, monkeypatch):
    monkeypatch.chdir(folder)
    # Starting processes takes longer than reading these few files.
    monkeypatch.setattr(os, "cpu_count", lambda: 1)


def test_the_page_has_what_is_tested():
    assert len(COMMANDS) == 10
    converters = len(re.findall("python tools/dataset_converters/", PAGE))
    assert len(re.findall("python tools", PAGE)) == len(COMMANDS) + converters


def test_the_first_config():
    cfg = load_config("my_rooms.py", dict(pretrained="vmt_mm://swin_nano"))
    check_inputs(cfg, training=True)
    dataset = DATASETS.build(cfg.train_dataloader.dataset)
    assert set(dataset[0]["data_samples"].keys()) == {"gt_floor", "gt_normals"}
    for name in ("train", "val", "test"):
        meta = DATASETS.build(cfg[f"{name}_dataloader"].dataset).metainfo
        assert meta["floor"]["classes"] == ("other", "carpet", "wood")
        assert np.shape(meta["floor"]["palette"]) == (3, 3)


def test_the_second_config():
    cfg = load_config("rooms_and_photos.py", dict(pretrained="vmt_mm://swin_nano"))
    check_inputs(cfg, training=True)
    assert list(cfg.model.tasks) == ["floor", "normals", "people"]
    dataset = DATASETS.build(cfg.train_dataloader.dataset)
    labels = [set(dataset[index]["data_samples"].keys()) for index in (0, 6)]
    assert labels == [{"gt_floor", "gt_normals"}, {"gt_people", "gt_normals"}]
    assert set(dataset.metainfo) == {"floor", "people"}
    val = DATASETS.build(cfg.val_dataloader.dataset)
    ids = [val[index]["data_samples"].sample_id for index in range(4)]
    assert ids == ["val_00000", "val_00001", "photos/val_00000", "photos/val_00001"]


def test_top_level_variables_reach_the_members():
    options = {"data_root": "elsewhere", "image_size": (64, 32), "tasks.normals.loss_weight": 3.0}
    cfg = load_config("rooms_and_photos.py", options)
    for name in ("train", "val", "test"):
        datasets = cfg[f"{name}_dataloader"].dataset.datasets
        assert [d.data_root for d in datasets] == ["elsewhere", "data/my_photos"]
        assert [d.tasks.normals.loss_weight for d in datasets] == [3.0, 3.0]
        sizes = {tuple(t.get("size", t.get("scale"))) for d in datasets for t in d.pipeline
                 if t.type in ("RandomWarp", "Resize")}  # fmt: skip
        assert sizes == {(64, 32)}


def test_one_task_removes_datasets_that_do_not_label_it():
    options = {"task": "floor", "train_dataloader.sampler.balance": [2, 1]}
    cfg = load_config("rooms_and_photos.py", options)
    (rooms,) = cfg.train_dataloader.dataset.datasets
    assert (rooms.data_root, list(rooms.tasks)) == ("data/my_rooms", ["floor"])
    assert cfg.train_dataloader.sampler.balance == [2]
    check_inputs(load_config("rooms_and_photos.py", {**options, "pretrained": None}), True)
    both = load_config("rooms_and_photos.py", {**options, "task": "normals"})
    assert [list(d.tasks) for d in both.val_dataloader.dataset.datasets] == [["normals"]] * 2
    assert both.train_dataloader.sampler.balance == [2, 1]
    none = {"task": "people", "train_dataloader.dataset.datasets": [dict(rooms)]}
    with pytest.raises(
        InputError, match="task='people': no dataset of train_dataloader has labels"
    ):
        load_config("rooms_and_photos.py", none)


def test_the_input_check_covers_the_members():
    cfg = load_config("rooms_and_photos.py", dict(pretrained=None))
    rooms, photos = cfg.train_dataloader.dataset.datasets
    rooms.data_root = "gone"
    photos.ann_file = "splits/gone.txt"
    photos.tasks.people.num_classes = 5
    cfg.val_dataloader.dataset.datasets[0].tasks["edge"] = dict(type="Edge")
    with pytest.raises(InputError) as caught:
        check_inputs(cfg, training=True)
    message = str(caught.value)
    for part in (
        "data_root 'gone' is not a folder",
        "data/my_photos/splits/gone.txt: no such split file",
        "train_dataloader (data/my_photos): task 'people' is Segmentation with 5 channels, but "
        "Segmentation with 2 channels in the model",
        "val_dataloader (data/my_rooms) has unknown task(s) ['edge']",
    ):
        assert part in message
    wrong = dict(type="MultiTaskDatset", data_root="data/my_rooms", tasks={})
    with pytest.raises(InputError, match=r"datasets\[0\].type: no dataset .*'MultiTaskDataset'"):
        load_config("rooms_and_photos.py", {"train_dataloader.dataset.datasets": [wrong]})


@pytest.mark.parametrize("command", COMMANDS)
def test_the_commands(command, run_tool, folder):
    script, *arguments = shlex.split(command)
    config = next(argument for argument in arguments if argument.endswith(".py"))
    small = [*SMALL, *(RENDERED if config.startswith("configs/") else [])]
    arguments = [argument.replace("FILE", "vmt_mm://swin_nano") for argument in arguments]
    if script == "tools/test.py":
        # The page's training has 60 epochs, this one has one.
        small.append("pretrained=vmt_mm://swin_nano")
        arguments[1] = str(_trained(config, folder, run_tool))
    elif "pretrained=vmt_mm://swin_nano" not in arguments:
        small.append("pretrained=vmt_mm://swin_nano")
    if "--cfg-options" not in arguments:
        arguments.append("--cfg-options")
    run_tool(script, *arguments, *small, cwd=folder)
    if script == "tools/misc/browse_dataset.py":
        pictures = list(Path("work_dirs/browse").rglob("*.png"))
        assert pictures
    elif script == "tools/test.py":
        task = "floor" if config == "my_rooms.py" else "people/photos"
        assert len(list(Path("work_dirs/predictions", task).glob("*.png"))) == 2
    elif script == "tools/train.py":
        work_dir = Path("work_dirs", Path(config).stem)
        if "--work-dir" in arguments:
            work_dir = Path(arguments[arguments.index("--work-dir") + 1])
        assert (work_dir / "epoch_1.pth").is_file()


def _trained(config, folder, run_tool):
    """The checkpoint after one epoch; train if no earlier command did."""
    path = folder / "work_dirs" / Path(config).stem / "epoch_1.pth"
    if not path.is_file():
        run_tool("tools/train.py", config, "--work-dir", path.parent, "--cfg-options",
                 "pretrained=vmt_mm://swin_nano", *SMALL, cwd=folder)  # fmt: skip
    return path
