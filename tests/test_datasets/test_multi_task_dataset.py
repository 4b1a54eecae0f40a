"""Datasets: the folder layout, faults of a folder, and rendering on first use."""

import multiprocessing
import os
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from mmengine.registry import init_default_scope
from PIL import Image
from waiting import PATIENCE

from vmt_mm.config.tree import data_folders
from vmt_mm.datasets import MultiTaskDataset, PASCALContextMT, SeededIndex, ShapesMT, shapes
from vmt_mm.errors import InputError

TASKS = dict(
    semseg=dict(type="Segmentation", num_classes=4),
    saliency=dict(type="Saliency"),
    normals=dict(type="Normals"),
)
EDGE = dict(type="Edge")
#: mmengine runs the garbage collector before it serializes a list of samples.
QUICK = dict(serialize_data=False)
PIPELINE = [dict(type=t) for t in ("LoadImageFromFile", "LoadLabels", "PackMultiTaskInputs")]
RENDER = dict(train=2, val=1, size=16, seed=5)


@pytest.fixture(autouse=True)
def _set_up(monkeypatch):
    init_default_scope("vmt_mm")
    # With one CPU, this process renders: starting workers takes longer than tiny scenes.
    monkeypatch.setattr(os, "cpu_count", lambda: 1)


def _save(path, *shape, value=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    image = np.full(shape, len(path.stem) if value is None else value, np.uint8)
    Image.fromarray(image).save(path)


@pytest.fixture
def root(tmp_path):
    """Two pictures, one in a subfolder and with fewer labels."""
    root = tmp_path / "data"
    _save(root / "images" / "a" / "b.c.png", 6, 8, 3)
    _save(root / "images" / "d.jpg", 6, 8, 3)
    for label in ("semseg/a/b.c", "semseg/d"):
        _save(root / f"{label}.png", 6, 8)
    for label in ("saliency/d", "edge/d"):
        _save(root / f"{label}.png", 6, 8, value=255)
    _save(root / "normals" / "d.png", 6, 8, 3, value=(128, 128, 255))
    (root / "splits").mkdir()
    (root / "splits" / "train.txt").write_text("a/b.c\n\n d \n")
    return root


def _dataset(root, **kwargs):
    return MultiTaskDataset(root, **{**QUICK, **dict(tasks=TASKS, pipeline=PIPELINE), **kwargs})


def _refused(match, *arguments, kind=MultiTaskDataset, **kwargs):
    with pytest.raises(InputError, match=match) as caught:
        kind(*arguments, **kwargs)
    assert len(str(caught.value).splitlines()) == 1


def test_samples_carry_the_labels_that_exist(root):
    nested, complete = (sample["data_samples"] for sample in _dataset(root, serialize_data=True))
    assert (nested.sample_id, complete.sample_id) == ("a/b.c", "d")
    assert set(complete.keys()) == {"gt_semseg", "gt_saliency", "gt_normals"}
    assert set(nested.keys()) == {"gt_semseg"}
    assert nested.label("semseg").shape == (1, 6, 8)
    assert (nested.label("semseg") == len("b.c")).all()
    assert nested.label("normals") is None


def test_tasks_may_be_a_subset_of_the_folders(root):
    dataset = _dataset(root, tasks=dict(edge=EDGE))
    assert list(dataset.tasks) == ["edge"]
    assert set(dataset[1]["data_samples"].keys()) == {"gt_edge"}
    assert set(dataset[0]["data_samples"].keys()) == set()


def _deriving(root, *steps, **kwargs):
    steps = [dict(type="DeriveLabel", **step) for step in steps]
    return _dataset(root, pipeline=[*PIPELINE[:2], *steps, PIPELINE[-1]], **kwargs)


def test_a_label_follows_from_that_of_another_task(root):
    """No other test has a label without a file."""
    values = np.array([[0, 1, 2, 3, 3, 3, 255, 0]] * 6, np.uint8)
    Image.fromarray(values).save(root / "semseg" / "d.png")
    Image.fromarray(np.full_like(values, 2)).save(root / "semseg" / "a" / "b.c.png")
    _save(root / "parts" / "a" / "b.c.png", 6, 8, value=4)
    parts = dict(task="parts", source="semseg", classes=[0, 6, 255, 255])
    absent = dict(task="rooms", source="semseg", classes=[255, 9, 5, 255])  # not in this dataset
    tasks = TASKS | dict(parts=dict(type="Segmentation", num_classes=7))
    nested, drawn = (s["data_samples"] for s in _deriving(root, parts, absent, tasks=tasks))
    assert drawn.label("parts")[0, 0].tolist() == [0, 6, 255, 255, 255, 255, 255, 0]
    assert drawn.label("rooms")[0, 0].tolist() == [255, 9, 5, 255, 255, 255, 255, 255]
    assert drawn.label("semseg")[0, 0].tolist() == values[0].tolist()
    assert nested.label("parts").unique().tolist() == [4], "a label from a file counts more"
    assert nested.label("rooms").unique().tolist() == [5]
    (_, without) = (s["data_samples"] for s in _deriving(root, parts, tasks=dict(edge=EDGE)))
    assert set(without.keys()) == {"gt_edge"}


@pytest.mark.parametrize("classes", [{0: 1}, [], [0, -1], [0, 256], [0.0], 3, [0] * 256])
def test_classes_that_follow_are_a_list(root, classes):
    rule = r"DeriveLabel: `classes` must list an integer in \[0, 255\] for each class of `source`"
    with pytest.raises(InputError, match=rule):
        _deriving(root, dict(task="parts", source="semseg", classes=classes))


def test_only_classes_give_another_label(root):
    (root / "semseg" / "d.png").unlink()
    dataset = _deriving(root, dict(task="semseg", source="saliency", classes=[0, 1]))
    with pytest.raises(InputError, match="DeriveLabel: task 'saliency' is not a segmentation task"):
        dataset[1]
    early = [PIPELINE[0], dict(type="DeriveLabel", task="a", source="semseg", classes=[0])]
    with pytest.raises(InputError, match="DeriveLabel must come after LoadLabels"):
        _dataset(root, pipeline=early)[0]


def test_label_of_another_size_is_refused(root):
    _save(root / "saliency" / "d.png", 6, 7, value=255)
    with pytest.raises(InputError, match=r"saliency/d\.png.*\(6, 7\).*\(6, 8\)"):
        _dataset(root)[1]


def test_missing_parts_of_a_folder_are_named(root):
    _refused("no/such.*not a folder.*data_root", "no/such", tasks=TASKS)
    _refused(r"splits/val\.txt", str(root), TASKS, ann_file="splits/val.txt")
    (root / "splits" / "train.txt").write_text("d\nx/y\nz\n")
    _refused(r"train\.txt: 2 id.*images.*'x/y'", str(root), TASKS)
    (root / "splits" / "train.txt").write_text(" \n")
    _refused(r"train\.txt: contains no id", str(root), TASKS)


def _logged(monkeypatch):
    lines = []
    monkeypatch.setattr(
        "vmt_mm.datasets.multi_task_dataset.print_log", lambda text, *_: lines.append(text)
    )
    return lines


def test_labels_without_an_image_are_warned_of(root, monkeypatch):
    lines = _logged(monkeypatch)
    _dataset(root)
    assert lines == []
    _save(root / "semseg" / "D.png", 6, 8)
    _save(root / "semseg" / "d_2.png", 6, 8)
    assert len(_dataset(root)) == 2
    (line,) = lines
    assert line.startswith(f"{root}/semseg: 2 file(s) do not belong to an image")
    assert "semseg/D.png', the nearest id is 'd'; expected <id>.png" in line


def test_labels_of_other_splits_are_fine(root, monkeypatch):
    lines = _logged(monkeypatch)
    _save(root / "images" / "val.png", 6, 8, 3)
    _save(root / "semseg" / "val.png", 6, 8)
    _dataset(root)
    assert lines == []
    (root / "splits" / "train.txt").write_text("a/b.c")
    assert "saliency" not in _dataset(root).get_data_info(0)["label_paths"]  # that of d is
    assert len(lines) == 2  # saliency and normals
    assert lines[0].endswith(
        f"train.txt: no id has a label of task 'saliency'; the 1 file(s) in {root}/saliency "
        "belong to other images"
    )


def test_names_that_match_no_file_are_refused(root):
    (root / "semseg" / "d.png").rename(root / "semseg" / "d_mask.png")
    (root / "semseg" / "a" / "b.c.png").rename(root / "semseg" / "a" / "b.c_mask.png")
    with pytest.raises(InputError, match=r"train\.txt: no id has a label of task 'semseg'.*2 file"):
        _dataset(root)
    tasks = TASKS | dict(semseg=dict(type="Segmentation", num_classes=4, suffix="_mask.png"))
    assert [s["data_samples"].label("semseg") is None for s in _dataset(root, tasks=tasks)] == [
        False,
        False,
    ]


def test_names_match_in_every_unicode_form(root):
    composed = unicodedata.normalize("NFC", "é/ü")
    decomposed = unicodedata.normalize("NFD", composed)
    _save(root / "images" / f"{composed}.PNG", 6, 8, 3)
    _save(root / "semseg" / f"{decomposed}.png", 6, 8)
    (root / "splits" / "train.txt").write_text(decomposed, encoding="utf-8")
    (sample,) = (s["data_samples"] for s in _dataset(root))
    assert sample.sample_id == composed
    assert sample.label("semseg") is not None


def test_the_nearest_id_of_an_image_that_is_missing_is_named(root):
    (root / "splits" / "train.txt").write_text("D\n")
    _refused(r"1 id\(s\) without an image.*'D', the nearest id is 'd'", str(root), TASKS)
    (root / "splits" / "train.txt").write_text("d.jpg\n")
    _refused("'d.jpg', the nearest id is 'd'", str(root), TASKS)
    (root / "splits" / "train.txt").write_text("photo\n")
    (root / "images" / "photo.HEIC").touch()
    _refused(r"'photo', '.*photo\.HEIC' does not end with \.jpg", str(root), TASKS)


@pytest.mark.parametrize("form", ["{}/", "{}/.", "~/data", "~/data/"])
def test_roots_in_other_words(root, monkeypatch, form):
    monkeypatch.setenv("HOME", str(root.parent))
    spaced = root.parent / "with space ü"
    spaced.symlink_to(root, target_is_directory=True)
    for given in (form.format(root), form.format(spaced), Path(form.format(root))):
        assert _dataset(given)[1]["data_samples"].label("semseg") is not None
    absolute = _dataset(root, ann_file="~/data/splits/train.txt")
    assert len(absolute) == 2


def test_a_missing_task_folder_is_refused(root):
    tasks = dict(semsegs=dict(type="Segmentation", num_classes=21))
    _refused("semsegs: no folder with the labels of task 'semsegs'", str(root), tasks)


def test_a_sample_that_no_pipeline_accepts_ends(root):
    dataset = _dataset(root, pipeline=[lambda results: None], max_refetch=3)
    with pytest.raises(InputError, match="train.txt: 4 samples in a row were unusable"):
        dataset.prepare_data(SeededIndex(0, (0, 0, 0)))


def test_class_names_must_be_as_many_as_classes(root):
    names = dict(semseg=dict(classes=("a", "b")))
    _refused(
        r"task 'semseg': `classes` must list 4 names, .*num_classes=4\), got \('a', 'b'\)",
        str(root),
        TASKS,
        metainfo=names,
    )
    names["semseg"]["classes"] += ("c", "d")
    assert _dataset(root, metainfo=names).metainfo["semseg"]["classes"] == ("a", "b", "c", "d")
    _refused("task 'semseg': `classes` must list 4 names", str(root), TASKS, kind=PASCALContextMT)
    for palette in ([(1, 2, 3)] * 3 + [(1, 2)], [(1, 2)] * 4, [(1, 2, 3)] * 3, 5):
        names["semseg"]["palette"] = palette
        _refused("`palette` must list 4 RGB colours", str(root), TASKS, metainfo=names)


def test_pascal_has_21_classes_and_7_parts(root):
    tasks = dict(
        semseg=dict(type="Segmentation", num_classes=21),
        human_parts=dict(type="Segmentation", num_classes=7),
    )
    (root / "human_parts").mkdir()
    meta = PASCALContextMT(str(root), tasks, pipeline=PIPELINE).metainfo
    for task, count in dict(semseg=21, human_parts=7).items():
        assert len(set(meta[task]["classes"])) == len(meta[task]["palette"]) == count
    assert meta["semseg"]["classes"][15] == "person"


def _shapes(root, render=RENDER, **kwargs):
    tasks = dict(semseg=dict(type="Segmentation", num_classes=8), normals=dict(type="Normals"))
    return ShapesMT(str(root), tasks, render, pipeline=PIPELINE, **QUICK, **kwargs)


def test_shapes_render_once_on_first_use(tmp_path):
    root = tmp_path / "deep" / "shapes"
    assert ShapesMT.find_problem(str(root)) is None
    dataset = _shapes(root)
    assert len(dataset) == 2
    assert dataset[0]["inputs"].shape == (3, 16, 16)
    assert set(dataset[0]["data_samples"].keys()) == {"gt_semseg", "gt_normals"}
    written = sorted((path, path.stat().st_mtime_ns) for path in root.rglob("*"))
    assert len(_shapes(root, ann_file="splits/val.txt")) == 1
    assert sorted((path, path.stat().st_mtime_ns) for path in root.rglob("*")) == written


def test_shapes_fill_an_empty_folder(tmp_path):
    (tmp_path / "shapes").mkdir()
    assert len(_shapes(tmp_path / "shapes")) == 2


@pytest.mark.parametrize(("train", "workers"), [(20, 0), (200, 3), (2000, 4)])
def test_a_worker_starts_only_for_many_scenes(tmp_path, monkeypatch, train, workers):
    asked = []

    def write(folder, **kwargs):
        asked.append(kwargs["workers"])
        folder.mkdir()

    monkeypatch.setattr(shapes, "write_dataset", write)
    monkeypatch.setattr(os, "cpu_count", lambda: 4)
    shapes.ensure_rendered(tmp_path / "shapes", **RENDER | dict(train=train))
    assert asked == [workers]


def test_interrupted_rendering_leaves_nothing_behind(tmp_path, monkeypatch):
    root, write = tmp_path / "shapes", shapes.write_dataset

    def interrupted(folder, **kwargs):
        write(folder, **kwargs)
        assert not root.exists()
        raise KeyboardInterrupt

    monkeypatch.setattr(shapes, "write_dataset", interrupted)
    with pytest.raises(KeyboardInterrupt):
        _shapes(root)
    assert not root.exists()
    # Leftovers of the interrupted rendering must not get into the next one's folder either.
    for leftover in tmp_path.glob(".*rendering"):
        (leftover / "images" / "stale.jpg").touch()
    monkeypatch.setattr(shapes, "write_dataset", write)
    assert len(_shapes(root)) == 2
    assert len(list((root / "images").iterdir())) == 3
    assert not list(tmp_path.glob("*rendering*"))


@pytest.mark.parametrize("change", [dict(train=3), dict(size=8), dict(seed=6)])
def test_scenes_of_other_settings_are_refused(tmp_path, change):
    root = tmp_path / "shapes"
    _shapes(root)
    files = sorted(root.rglob("*"))
    with pytest.raises(InputError, match=f"shapes: contains .*'{next(iter(change))}'"):
        _shapes(root, RENDER | change)
    assert sorted(root.rglob("*")) == files


def test_a_folder_without_scenes_is_refused(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="file: contains no rendered scenes"):
        _shapes(tmp_path / "file")
    (tmp_path / "torn").mkdir()
    (tmp_path / "torn/shapes.json").write_text("{")
    with pytest.raises(InputError, match="torn: contains"):
        _shapes(tmp_path / "torn")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="contains no rendered scenes"):
        _shapes(".")


def test_foreign_folder_is_left_alone(root):
    files = sorted(root.rglob("*"))
    with pytest.raises(InputError, match="data: contains no rendered scenes"):
        _shapes(root)
    assert sorted(root.rglob("*")) == files


def _ensure_rendered(root, both):
    """Return whether this process rendered, and the number of images it found."""
    is_rendered, write = shapes._is_rendered, shapes.write_dataset
    looked, rendered = [], []

    def look(*arguments):
        found = is_rendered(*arguments)
        if not looked:
            looked.append(found)
            both.wait(PATIENCE)  # until both have found nothing
        return found

    def note(*arguments, **kwargs):
        rendered.append(arguments)
        write(*arguments, **kwargs)

    with pytest.MonkeyPatch.context() as patches:
        patches.setattr(shapes, "_is_rendered", look)
        patches.setattr(shapes, "write_dataset", note)
        shapes.ensure_rendered(root, **RENDER)
    assert looked == [False]
    return len(rendered), len(list((root / "images").iterdir()))


@pytest.mark.processes
def test_processes_that_start_together_render_once(tmp_path):
    context = multiprocessing.get_context("fork")
    both, found = context.Barrier(2), context.SimpleQueue()
    other = context.Process(
        target=lambda: found.put(_ensure_rendered(tmp_path / "shapes", both)), daemon=True
    )
    other.start()
    try:
        here = _ensure_rendered(tmp_path / "shapes", both)
        other.join(PATIENCE)
        assert other.exitcode == 0
    finally:
        other.kill()
    assert sorted([here, found.get()]) == [(0, 3), (1, 3)]


def test_a_task_reads_another_folder(root):
    (root / "semseg").rename(root / "classes")
    _refused(
        r"semseg: no folder .* task 'semseg'; .*, or set the task's `folder`", str(root), TASKS
    )
    tasks = TASKS | dict(semseg=dict(type="Segmentation", num_classes=4, folder="classes"))
    labels = [sample["data_samples"].label("semseg") for sample in _dataset(root, tasks=tasks)]
    assert [label.unique().tolist() for label in labels] == [[3], [1]]  # lengths of the names
    dataset = dict(type="MultiTaskDataset", data_root=str(root), tasks=tasks)
    (read,) = data_folders(dict(train_dataloader=dict(dataset=dataset)))
    folders = {"images", "classes", "saliency", "normals", "splits"}
    assert set(read) == {root, *(root / f for f in folders), root / "splits/train.txt"}
