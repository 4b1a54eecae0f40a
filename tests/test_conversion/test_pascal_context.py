"""Conversion of a raw PASCAL_MT, compared with labels written by hand."""

import errno
import json
import struct
import sys
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from commands import ROOT, run_process
from raw_pascal import (
    SIZE,
    TRAIN,
    box,
    damage,
    make_raw,
    read,
    recipe,
    save_context,
    save_parts,
    save_png,
    thing,
    tree,
)

from vmt_mm.conversion import convert
from vmt_mm.conversion.labels import thin, to_camera_frame
from vmt_mm.conversion.pascal_context import NORMALS_CLASSES, PART_INDEX, pascal_context
from vmt_mm.datasets import PASCALContextMT
from vmt_mm.errors import InputError

TASKS = ("semseg", "human_parts", "saliency", "normals", "edge")


@pytest.fixture
def raw(tmp_path):
    return make_raw(tmp_path / "raw")


def test_every_label_is_as_by_hand(raw, tmp_path):
    out = tmp_path / "out"
    before = tree(raw)
    report = convert(recipe(), raw, out)
    assert report.problems == []
    assert tree(raw) == before
    assert (out / "splits/train.txt").read_text() == "a\nb\nc\n"
    assert (out / "splits/val.txt").read_text() == "d\ne\n"
    assert (out / "images/a.jpg").read_bytes() == (raw / "JPEGImages/a.jpg").read_bytes()

    classes = np.full(SIZE, 255)
    classes[2:, 2:] = 15
    for i in "ac":
        assert (read(out / f"semseg/{i}.png") == classes).all()
    assert (read(out / "saliency/a.png") == 200 * box(0, 6, 0, 8)).all()

    parts = np.zeros(SIZE)
    parts[0:2, 0:4] = 1  # hair; the torso, drawn later, covers its third row
    parts[2:6, 0:4] = 2
    parts[4:6, 2:9] = 4  # a hand over the torso
    parts[8:12, 6:9] = 6
    assert (read(out / "human_parts/a.png") == parts).all()
    assert sorted(p.stem for p in (out / "human_parts").iterdir()) == ["a", "c", "d", "e"]

    normals = np.zeros((*SIZE, 3))
    normals[:6, :10] = (128, 127, 255)
    normals[6:, :10] = (128, 255, 128)  # up
    normals[0, 0] = 0
    assert np.abs(read(out / "normals/a.png").astype(int) - normals).max() <= 1
    assert (read(out / "normals/a.png")[:, 10:] == 0).all()  # no normals of the sky

    edge = np.zeros(SIZE)
    edge[:, 9] = 255  # to the border of the image
    edge[6] = 255 * (np.arange(16) < 9)  # which meet at corners
    assert (read(out / "edge/a.png") == edge).all()


def test_the_report_counts(raw, tmp_path):
    report = convert(recipe(), raw, tmp_path / "out")
    states = {split: dict(counts["human_parts"]) for split, counts in report.splits.items()}
    assert states == dict(train=dict(written=2, none=1), val=dict(written=2))
    assert all(report.splits["val"][task] == dict(written=2) for task in ("image", "edge"))
    stored = json.loads((tmp_path / "out/report.json").read_text())
    assert stored == report.as_dict()
    assert (stored["whole"], stored["converted_now"]) == (True, 5)
    # 59 pixels of wall, 60 of floor in each of the five images.
    assert stored["notes"]["normals"] == dict(valid=595, towards_camera=595, floor=300, up=300)


def test_the_converted_set_is_read_as_it_was_meant(raw, tmp_path):
    convert(recipe(), raw, tmp_path / "out")
    tasks = {name: dict(type=name.title()) for name in ("saliency", "normals", "edge")}
    for name, classes in (("semseg", 21), ("human_parts", 7)):
        tasks[name] = dict(type="Segmentation", num_classes=classes)
    pipeline = [dict(type=t) for t in ("LoadImageFromFile", "LoadLabels", "PackMultiTaskInputs")]
    dataset = PASCALContextMT(str(tmp_path / "out"), tasks, pipeline=pipeline)
    samples = [item["data_samples"] for item in dataset]
    assert [set(sample.keys()) for sample in samples] == [
        {f"gt_{task}" for task in TASKS if (i, task) != ("b", "human_parts")} for i in TRAIN
    ]
    label = {task: samples[0].label(task).numpy() for task in TASKS}
    assert (label["semseg"][0, :2] == 255).all()
    assert (label["semseg"][0, 2:, 2:] == 15).all()
    assert label["human_parts"][0, [1, 3, 4, 9], [1, 1, 5, 7]].tolist() == [1, 2, 4, 6]
    assert (label["saliency"][0] == box(0, 6, 0, 8)).all()
    # wall towards the camera, floor up, none in the sky
    expected = np.zeros((3, *SIZE))
    expected[2, :6, :10] = expected[1, 6:, :10] = 1
    expected[:, 0, 0] = 0
    assert np.abs(label["normals"] - expected).max() < 0.01
    line = np.zeros(SIZE)
    line[:, 9], line[6] = 1, np.arange(16) < 9
    assert (label["edge"][0] == line).all()


def test_every_fault_is_named_and_the_rest_is_converted(raw, tmp_path):
    out = tmp_path / "out"
    expected = damage(raw)
    report = convert(recipe(), raw, out)
    assert len(report.problems) == len(expected)
    for problem, start in zip(report.problems, expected, strict=True):
        assert problem.startswith(start)
    lost = {"normals": "ab", "edge": "b", "human_parts": "bc", "saliency": "d", "semseg": ""}
    for task, ids in lost.items():
        there = {p.name for p in (out / task).iterdir()}
        assert there == {f"{i}.png" for i in "abcd" if i not in ids}, task
    assert {p.name for p in (out / "images").iterdir()} == {f"{i}.jpg" for i in "abcd"}
    assert (out / "splits/val.txt").read_text() == "d\n"
    assert report.splits["train"]["human_parts"] == dict(written=1, none=1, damaged=1)


@pytest.mark.parametrize(
    ("things", "message"),
    [
        ([thing(15, ("wing", box(0, 1, 0, 1)))], "human_parts/b.mat: unknown part 'wing'"),
        ([thing(15, ("head", "text"))], "human_parts/b.mat: not structured like PASCAL-Part"),
        (
            [thing(15, ("head", box(0, 1, 0, 1)), ("torso", np.ones((3, 3))))],
            "human_parts/b.mat: not structured like PASCAL-Part",
        ),
    ],
)
def test_invalid_parts(raw, tmp_path, things, message):
    save_parts(raw / "human_parts/b.mat", *things)
    (problem,) = convert(recipe(), raw, tmp_path / "out").problems
    assert problem.startswith(message)


def test_invalid_classes_and_sizes(raw, tmp_path):
    save_png(raw / "semseg/VOC12/a.png", np.full(SIZE, 21))
    save_context(raw / "pascal-context/trainval/b.mat", np.full((11, 16), 3))
    save_context(raw / "pascal-context/trainval/d.mat", np.full(SIZE, 460))
    problems = convert(recipe(), raw, tmp_path / "out").problems
    assert problems == [
        "semseg/VOC12/a.png: expected class indices 0..20 or 255 in one channel, got 21",
        "normals_distill/b.png: normals of size (12, 16) (height, width), but "
        "pascal-context/trainval/b.mat has (11, 16)",
        "pascal-context/trainval/b.mat: label of size (11, 16) (height, width), but the image has "
        "(12, 16)",
        "pascal-context/trainval/d.mat: expected classes 0 to 459, got 0 to 460",
    ]


def png_of(height, width):
    """A PNG whose header declares this size, with almost no data."""

    def chunk(kind, content):
        return (
            struct.pack(">I", len(content))
            + kind
            + content
            + struct.pack(">I", zlib.crc32(kind + content))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    parts = ((b"IHDR", header), (b"IDAT", zlib.compress(bytes(100))), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts)


def make_folder(path):
    path.unlink()
    path.mkdir()


FAULTS = {
    "a folder": (make_folder, "JPEGImages/a.jpg: Is a directory; expected an image"),
    "too large": (
        lambda path: path.write_bytes(png_of(200_000, 200_000)),
        "JPEGImages/a.jpg: cannot be decoded (",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_an_image_that_cannot_be_opened_is_one_problem(raw, tmp_path, fault):
    damage_image, message = FAULTS[fault]
    damage_image(raw / "JPEGImages/a.jpg")
    report = convert(recipe(), raw, tmp_path / "out")
    (problem,) = report.problems
    assert problem.startswith(message)
    assert (tmp_path / "out/splits/train.txt").read_text() == "b\nc\n"
    # its labels do not count as missing
    assert report.splits["train"]["image"] == dict(damaged=1, written=2)
    assert report.splits["train"]["saliency"] == {"no image": 1, "written": 2}


def test_a_disk_error_of_another_kind_ends_the_run(raw, tmp_path, monkeypatch):
    def full(path, real=Path.read_bytes):
        if path.name == "a.jpg":
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(path)

    monkeypatch.setattr(Path, "read_bytes", full)
    with pytest.raises(OSError, match="No space left"):
        convert(recipe(), raw, tmp_path / "out")


def test_all_missing_alternatives_are_named(raw, tmp_path):
    (raw / "semseg/pascal-context/c.png").unlink()
    assert convert(recipe(), raw, tmp_path / "out").problems == [
        "semseg/VOC12/c.png or semseg/pascal-context/c.png: missing"
    ]


def test_axes_that_the_data_disproves_are_named(raw, tmp_path, monkeypatch):
    monkeypatch.setattr("vmt_mm.conversion.labels._ENOUGH", 100)
    first, second = convert(recipe("x,y,-z"), raw, tmp_path / "out").problems
    assert first.startswith("normals: of the valid pixels only ")
    assert "towards_camera: change the third of the axes 'x,y,-z'" in first
    assert "of the floor pixels only 0% point up: change the second of the axes" in second


def test_axes():
    vectors = np.float32([[1, 2, 3]])
    assert to_camera_frame(vectors, "x,-y,z").tolist() == [[1, -2, 3]]
    assert to_camera_frame(vectors, "-z,x,y").tolist() == [[-3, 1, 2]]
    assert pascal_context("x, -y, z").settings == dict(normals_axes="x,-y,z")
    for wrong in ("x,y", "x,y,y", "x,--y,z", "xy,z,", "right,up,z"):
        with pytest.raises(InputError, match="frame of normals"):
            pascal_context(wrong)


def test_thinning_keeps_together_what_was_together():
    square = np.zeros((6, 6), bool)
    square[2:4, 2:4] = True
    assert thin(square).sum() == 1
    slanted = np.zeros((12, 12), bool)
    for i in range(10):
        slanted[i : i + 2, i : i + 2] = True
    corners, cross = np.ones((3, 3)), np.zeros((15, 15), bool)
    cross[6:9], cross[:, 6:9] = True, True
    for mask in (slanted, cross, cross | slanted_frame()):
        line = thin(mask)
        pieces = cv2.connectedComponents(line.astype(np.uint8), connectivity=8)[0]
        assert pieces == cv2.connectedComponents(mask.astype(np.uint8), connectivity=8)[0]
        assert not (line & ~mask).any()
        squares = cv2.filter2D(line.astype(np.uint8), -1, corners[:2, :2])
        assert squares[1:, 1:].max() < 4
        assert line.sum() > 8


def slanted_frame():
    """A ring, whose hole must stay."""
    ring = np.zeros((15, 15), bool)
    ring[1:14, 1:14] = True
    ring[3:12, 3:12] = False
    return ring


def test_the_tables():
    assert (len(NORMALS_CLASSES), len(set(NORMALS_CLASSES)), len(PART_INDEX)) == (170, 170, 24)
    assert 1 <= min(NORMALS_CLASSES) <= max(NORMALS_CLASSES) <= 459


def test_the_tool(raw, tmp_path):
    script = ROOT / "tools/dataset_converters/pascal_context.py"
    # Five images are not all of PASCAL_MT.
    output = run_process(sys.executable, script, raw, tmp_path / "out", "--workers", "2", code=1)
    assert "ImageSets/Context/train.txt: lists 3 ids, 4,998 are expected" in output
    assert "PASCAL_MT is NOT complete: 2 problem(s), 5 image(s) converted now;" in output
    assert "human_parts" in output
    stored = json.loads((tmp_path / "out/report.json").read_text())
    assert stored["splits"]["val"]["expected"] == 5105


def test_wrong_arguments_are_one_line_each(run_tool, raw, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/notes.txt").write_text("mine")
    (tmp_path / "text.txt").write_text("no archive")
    nowhere = tmp_path / "nowhere"
    for source, target, axes, message in (
        (nowhere, tmp_path / "out", "x,y,z", "nowhere: expected a folder or an archive"),
        (tmp_path / "text.txt", tmp_path / "out", "x,y,z", "expected a folder or an archive"),
        (tmp_path, tmp_path / "raw/out", "x,y,z", "would overwrite the input"),
        (tmp_path / "mine", nowhere, "x,y,z", "ImageSets/Context/train.txt: no such file"),
        (raw, tmp_path / "mine", "x,y,z", "mine: is not empty and no converter wrote it"),
    ):
        with pytest.raises(InputError, match=message):
            convert(recipe(axes), Path(source), Path(target))
    assert not nowhere.exists()
    assert not (tmp_path / "out").exists()
    script = "tools/dataset_converters/pascal_context.py"
    output = run_tool(script, raw, tmp_path / "out", "--normals-axes=-x,y", code=1).text
    assert output.startswith("error: frame of normals '-x,y'")
    assert len(output.splitlines()) == 1


def test_ids_in_both_splits_are_named(raw, tmp_path):
    (raw / "ImageSets/Context/val.txt").write_text("d\na\n")
    report = convert(recipe(), raw, tmp_path / "out")
    assert report.problems == ["id 'a' is in more than one split"]
    assert (tmp_path / "out/splits/val.txt").read_text() == "d\na\n"
    assert (tmp_path / "out/splits/train.txt").read_text() == "a\nb\nc\n"
