"""``verify_dataset`` finds faults, and counts valid files."""

import json
import pickle
from functools import partial

import cv2
import numpy as np
import pytest
from commands import CONFIG
from PIL import Image

from vmt_mm.datasets.transforms import LoadImageFromFile
from vmt_mm.datasets.verification import check_entry, choose_entries, verify
from vmt_mm.errors import InputError
from vmt_mm.rendering import write_dataset
from vmt_mm.structures import MultiTaskDataSample
from vmt_mm.tasks import build_tasks
from vmt_mm.visualization import draw_contact_sheet, draw_histogram

TOOL = "tools/misc/verify_dataset.py"
SIZE = (8, 10)
TASKS = build_tasks(
    dict(
        floor=dict(type="Segmentation", num_classes=3),
        saliency=dict(type="Saliency"),
        normals=dict(type="Normals"),
        depth=dict(type="Depth"),
    )
)


def _save(path, values):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values).save(path)


@pytest.fixture
def root(tmp_path):
    """Three images for training, two for validation; ``c`` has only one label."""
    root = tmp_path / "data"
    classes = np.zeros(SIZE, np.uint8)
    classes[0], classes[1] = 2, 255
    for i in "abcde":
        _save(root / f"images/{i}.jpg", np.full((*SIZE, 3), 90, np.uint8))
        _save(root / f"floor/{i}.png", classes)
        if i != "c":
            _save(root / f"saliency/{i}.png", np.tile(np.uint8([0, 255]), (8, 5)))
            normals = np.full((*SIZE, 3), (128, 128, 255), np.uint8)
            normals[:, :5] = 0
            normals[:2, 5:] = (230, 128, 204)
            _save(root / f"normals/{i}.png", normals)
            depth = np.full(SIZE, 1500, np.uint16)
            depth[0] = 1600
            _save(root / f"depth/{i}.png", depth)
    (root / "splits").mkdir()
    (root / "splits/train.txt").write_text("a\nb\nc\n")
    (root / "splits/val.txt").write_text("d\ne\n")
    return root


def splits(root, *names):
    return {name: root / f"splits/{name}.txt" for name in names or ("train", "val")}


def test_a_sound_set_is_counted(root):
    result = verify(root, TASKS, splits(root))
    assert result.problems == []
    train = result.summaries["train"]
    assert {task: summary.images for task, summary in train.items()} == dict(
        floor=3, saliency=2, normals=2, depth=2
    )
    assert (train["floor"].valid, train["floor"].pixels) == (3 * 70, 3 * 80)
    assert train["floor"].values == {0: 3 * 60, 2: 3 * 10}
    assert train["floor"].images_with == {0: 3, 2: 3}
    assert (train["normals"].valid, train["normals"].pixels) == (2 * 40, 2 * 80)
    assert train["saliency"].values == {0: 80, 1: 80}
    assert train["depth"].values == {}  # metres are not classes
    stored = result.as_dict({"floor": {2: "carpet"}})["splits"]["val"]
    assert stored["images"] == 2
    assert stored["tasks"]["floor"]["values"][1] == dict(
        value=2, name="carpet", pixels=20, images=2
    )


def _truncate(path):
    path.write_bytes(path.read_bytes()[:-30])


def _all(root, task, values):
    for path in (root / task).iterdir():
        _save(path, values)


FAULTS = {
    "a truncated image": (
        lambda root: _truncate(root / "images/a.jpg"),
        ["images/a.jpg: the JPEG is truncated"],
    ),
    "a truncated label": (
        lambda root: _truncate(root / "saliency/d.png"),
        ["saliency/d.png: cannot be read"],
    ),
    "a class too many": (
        lambda root: _save(root / "floor/b.png", np.full(SIZE, 3, np.uint8)),
        ["floor/b.png: expected class indices 0..2 or 255 in one channel, got 3"],
    ),
    "another size": (
        lambda root: _save(root / "depth/e.png", np.full((10, 8), 9, np.uint16)),
        ["depth/e.png: label of size (10, 8) (height, width), but "],
    ),
    "another kind of file": (
        lambda root: _save(root / "depth/e.png", np.full(SIZE, 9, np.uint8)),
        ["depth/e.png: expected 16-bit depth"],
    ),
    "vectors that are too short": (
        lambda root: _save(root / "normals/a.png", np.full((*SIZE, 3), 150, np.uint8)),
        ["normals/a.png: 100.0% of the normals are not of unit length"],
    ),
    "no normal at all": (
        lambda root: _save(root / "normals/a.png", np.zeros((*SIZE, 3), np.uint8)),
        ["normals/a.png: no pixel has a normal"],
    ),
    "images that are not there": (
        lambda root: [(root / f"images/{i}.jpg").unlink() for i in "bd"],
        [
            "splits/train.txt: 1 id(s) without an image in",
            "splits/val.txt: 1 id(s) without an image in",
            *(f"{task}: 2 file(s) do not belong to an image" for task in TASKS),
        ],
    ),
    "an id in both splits": (
        lambda root: (root / "splits/val.txt").write_text("d\ne\nb\n"),
        ["splits/val.txt: id 'b' is also in split 'train'"],
    ),
    "an id twice": (
        lambda root: (root / "splits/val.txt").write_text("d\nd\n"),
        ["splits/val.txt: id 'd' is listed twice"],
    ),
    "two images of one id": (
        lambda root: _save(root / "images/a.png", np.zeros((*SIZE, 3), np.uint8)),
        ["images/a.png and "],
    ),
    "labels named otherwise": (
        lambda root: (root / "depth/a.png").rename(root / "depth/a_mask.png"),
        ["depth: 1 file(s) do not belong to an image, the first is "],
    ),
    "labels of another format": (
        lambda root: (root / "depth/a.png").rename(root / "depth/a.npz"),
        ["depth: 1 file(s) do not belong to an image, the first is "],
    ),
    "a JPEG under another name": (
        lambda root: Image.fromarray(np.zeros(SIZE, np.uint8)).save(root / "floor/b.png", "JPEG"),
        ["floor/b.png: the file is a JPEG file"],
    ),
    "a mask of 0 and 1": (
        lambda root: _save(root / "saliency/b.png", np.tile(np.uint8([0, 1]), (8, 5))),
        ["saliency/b.png: expected a mask of 8 bits in one channel, foreground above 127"],
    ),
    "masks without any foreground": (
        lambda root: _all(root, "saliency", np.tile(np.uint8([0, 100]), (8, 5))),
        ["saliency: every pixel is background"],
    ),
    "labels that are all ignored": (
        lambda root: _all(root, "floor", np.full(SIZE, 255, np.uint8)),
        ["floor: no pixel has a label"],
    ),
    "depth of one value": (
        lambda root: _all(root, "depth", np.full(SIZE, 1500, np.uint16)),
        ["depth: every label is constant"],
    ),
    "normals of another frame": (
        lambda root: _all(
            root,
            "normals",
            np.repeat(np.uint8([[128, 128, 0], [128, 8, 85]]), 40, 0).reshape(*SIZE, 3),
        ),
        ["normals: 100% of the normals face away from the camera and 100% of the steep ones"],
    ),
    "a task without a label": (
        lambda root: [path.unlink() for path in (root / "depth").iterdir()],
        ["depth: no image of the splits has a label"],
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_every_fault_is_named(root, fault):
    damage, expected = FAULTS[fault]
    damage(root)
    problems = verify(root, TASKS, splits(root)).problems
    for start in expected:
        assert [p for p in problems if p.startswith(f"{root}/{start}")], problems
    if fault != "two images of one id":  # which leaves no known image
        assert len(problems) == len(expected)


def test_orientations_are_noted_and_explain_sizes(root):
    exif = Image.Exif()
    exif[0x112] = 8
    Image.fromarray(np.full((*SIZE, 3), 90, np.uint8)).save(root / "images/a.jpg", exif=exif)
    result = verify(root, TASKS, splits(root))
    assert result.problems == []
    assert result.notes == [
        f"1 image(s) have an EXIF orientation, such as {root}/images/a.jpg; labels are compared "
        "with pixels as stored, ignoring it (LoadImageFromFile.turn_by_exif)"
    ]
    turning = LoadImageFromFile(turn_by_exif=True)
    problems = verify(root, TASKS, splits(root), reader=turning).problems
    assert len(problems) == 4
    assert all("its EXIF orientation is 8" in problem for problem in problems)


def test_deep_images_are_read_as_the_config_says(root):
    for i in "abcde":
        (root / f"images/{i}.jpg").unlink()
        _save(root / f"images/{i}.png", np.full(SIZE, 900, np.uint16))
    problems = verify(root, TASKS, splits(root)).problems
    assert len(problems) == 5
    assert "a.png: has uint16 values in [900, 900]" in problems[0]
    reader = LoadImageFromFile(value_range=(0, 1000))
    assert verify(root, TASKS, splits(root), reader=reader).problems == []


def test_faults_do_not_hide_each_other(root):
    for fault in ("a truncated image", "a class too many", "vectors that are too short"):
        FAULTS[fault][0](root)
    result = verify(root, TASKS, splits(root))
    assert len(result.problems) == 3
    assert result.summaries["train"]["floor"].images == 2  # its label is intact


def test_arguments_of_workers_can_be_pickled(root):
    FAULTS["another size"][0](root)
    read = partial(check_entry, tasks=TASKS, reader=LoadImageFromFile())
    sent = pickle.loads(pickle.dumps(read))
    entries = verify(root, TASKS, splits(root, "val")).entries["val"]
    assert [sent(e) for e in entries] == [read(e) for e in entries]
    assert [len(sent(e).problems) for e in entries] == [0, 1]


def test_missing_folders_and_splits_are_errors(root):
    for folder, names, message in (
        (root / "gone", ("train",), "gone: not a folder"),
        (root, ("test",), r"test\.txt: no such split file"),
    ):
        with pytest.raises(InputError, match=message):
            verify(folder, TASKS, splits(folder, *names))


def test_the_contact_sheet_shows_every_task(root):
    for i in "abc":  # a task with labels for few images
        (root / f"normals/{i}.png").unlink(missing_ok=True)
    result = verify(root, TASKS, splits(root))
    entries = [entry for of_split in result.entries.values() for entry in of_split]
    for count in (1, 4, 5, 9):
        chosen = choose_entries(entries, count)
        assert len({e["sample_id"] for e in chosen}) == len(chosen) == min(count, 5)
    assert any("normals" in e["label_paths"] for e in choose_entries(entries, 4))
    assert choose_entries([], 4) == []


def test_pictures():
    images = [(np.zeros((h, 20, 3), np.uint8), MultiTaskDataSample()) for h in (20, 40)]
    one, two = (draw_contact_sheet(images[:n], TASKS, {}) for n in (1, 2))
    assert two.shape[1] == one.shape[1]
    assert two.shape[0] > 2 * one.shape[0]  # the second image is taller
    shares = {"floor": {"train": {0: 0.9, 2: 0.1}, "val": {0: 1.0}}}
    picture = draw_histogram(shares, {"floor": {0: "no", 1: "tiles", 2: "carpet"}})
    assert picture.dtype == np.uint8
    blue = (picture == (31, 119, 180)).all(axis=-1).any(axis=0)  # columns of the first split
    assert np.diff(blue.astype(int)).tolist().count(1) >= 2


CONFIG_OF = """
def data(root, ann_file, **tasks):
    return dict(type="MultiTaskDataset", data_root=root, ann_file=ann_file, tasks=tasks)
floor, saliency = dict(type="Segmentation", num_classes=3), dict(type="Saliency")
train_dataloader = dict(dataset=dict(type="ConcatDataset", datasets=[
    data({root!r}, "splits/train.txt", floor=floor),
    data({other!r}, "splits/other.txt", flow=saliency)]))
val_dataloader = dict(dataset=data({root!r}, {val!r}, floor=floor, saliency=saliency))
del data, floor, saliency
model, total_batch_size = dict(), 1
"""


@pytest.mark.parametrize("here", [True, False])
def test_all_datasets_of_the_folder_count(run_tool, root, tmp_path, here):
    config, out = tmp_path / "config.py", tmp_path / "out"
    name = str(root) if here else "elsewhere"
    (root / "splits/other.txt").write_text("c\n")
    config.write_text(CONFIG_OF.format(root=name, other="other", val="splits/val.txt"))
    arguments = (TOOL, root, "--config", config, "--out", out, "--workers", 1, "--show-number", 0)
    run_tool(*arguments, code=0 if here else 1)
    found = json.loads((out / "report.json").read_text())["splits"]
    tasks = {split: list(content["tasks"]) for split, content in found.items()}
    if here:  # the dataset elsewhere does not count
        assert tasks == dict(train=["floor", "saliency"], val=["floor", "saliency"])
    else:
        assert set(tasks) == {"train", "other", "val"}
        assert tasks["val"] == ["floor", "flow", "saliency"]
    # two lists with the same name
    config.write_text(CONFIG_OF.format(root=name, other="other", val="lists/train.txt"))
    output = run_tool(*arguments, code=1).text
    message = (
        f"error: {root}/splits/train.txt and {root}/lists/train.txt: two lists of the same name"
    )
    assert output.startswith(message)


def test_the_tool(run_tool, tmp_path):
    root, out = tmp_path / "shapes", tmp_path / "out"
    write_dataset(root, train=3, val=2, size=32, seed=0, workers=1)
    arguments = (TOOL, root, "--config", CONFIG, "--out", out, "--workers", "1")
    assert "0 problem(s)" in run_tool(*arguments).text
    assert cv2.imread(str(out / "contact_sheet.png")).shape[0] > 500
    assert cv2.imread(str(out / "histogram.png")) is not None
    _truncate(root / "images/val_00001.jpg")
    output = run_tool(*arguments, "--split", "val", code=1).text
    assert f"{root}/images/val_00001.jpg: the JPEG is truncated" in output
    stored = json.loads((out / "report.json").read_text())
    assert (stored["sound"], list(stored["splits"])) == (False, ["val"])
    output = run_tool(TOOL, tmp_path / "gone", "--config", CONFIG, code=1).text
    assert output == f"error: {tmp_path / 'gone'}: not a folder; expected the root of a dataset\n"
