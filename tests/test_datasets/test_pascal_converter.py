"""From a raw PASCAL_MT to labels checked by hand."""

import dataclasses
import json
import os
import sys
import tarfile
from pathlib import Path

import cv2
import numpy as np
import pytest
from commands import ROOT, run
from here import run_here
from raw_pascal import SIZE, TRAIN, VAL, box, make_raw, save_context, save_parts, save_png, thing

from vmt_mm.conversion import convert, image
from vmt_mm.conversion.normals import to_camera_frame
from vmt_mm.conversion.pascal_context import NORMALS_CLASSES, PART_INDEX, pascal_context
from vmt_mm.conversion.thinning import thin
from vmt_mm.datasets import PASCALContextMT
from vmt_mm.errors import InputError

TASKS = ("semseg", "human_parts", "saliency", "normals", "edge")


def recipe(axes="x,-y,z"):
    """The recipe, for a set of five images."""
    return dataclasses.replace(pascal_context(axes), expected=dict(train=3, val=2))


@pytest.fixture
def raw(tmp_path):
    return make_raw(tmp_path / "raw")


def read(path):
    values = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    return values if values.ndim == 2 else values[..., ::-1]


def tree(folder):
    """Content of every file, but for what is of this run alone."""
    files = (p for p in folder.rglob("*") if p.is_file())
    return {
        p.relative_to(folder).as_posix(): p.read_bytes()
        for p in files
        if p.name not in ("report.json", "conversion.jsonl")
    }


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
    parts[0:2, 0:4] = 1  # hair; its third row is under the torso, which comes later
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
    states = {split: dict(counts["human_parts"]) for split, counts in report.counts.items()}
    assert states == dict(train=dict(written=2, none=1), val=dict(written=2))
    assert all(report.counts["val"][task] == dict(written=2) for task in ("image", "edge"))
    stored = json.loads((tmp_path / "out/report.json").read_text())
    assert stored == report.as_dict()
    assert (stored["whole"], stored["converted_now"]) == (True, 5)
    # 59 pixels of wall, 60 of floor in each of the five images.
    assert stored["notes"]["normals"] == dict(
        valid=595, towards_camera=595, floor=300, floor_up=300
    )


def test_the_converted_set_can_be_trained_on(raw, tmp_path):
    convert(recipe(), raw, tmp_path / "out")
    tasks = {name: dict(type=name.title()) for name in ("saliency", "normals", "edge")}
    for name, classes in (("semseg", 21), ("human_parts", 7)):
        tasks[name] = dict(type="Segmentation", num_classes=classes)
    pipeline = [dict(type=t) for t in ("LoadImageFromFile", "LoadLabels", "PackMultiTaskInputs")]
    dataset = PASCALContextMT(str(tmp_path / "out"), tasks, pipeline=pipeline)
    assert [set(s["data_samples"].keys()) for s in dataset] == [
        {f"gt_{task}" for task in TASKS if (i, task) != ("b", "human_parts")} for i in TRAIN
    ]


def _faults(raw):
    """Damage a raw set in every way; what the report must say."""
    (raw / "normals_distill/a.png").unlink()
    mat = raw / "human_parts/c.mat"
    mat.write_bytes(mat.read_bytes()[:-40])
    save_png(raw / "sal_distill/d.png", np.zeros((12, 15)))
    jpeg = raw / "JPEGImages/e.jpg"
    jpeg.write_bytes(jpeg.read_bytes()[:200])
    (raw / "pascal-context/trainval/b.mat").unlink()
    return [
        "normals_distill/a.png: missing",
        "pascal-context/trainval/b.mat: missing",
        "human_parts/c.mat: cannot be read as a MATLAB file",
        "sal_distill/d.png: label of size (12, 15) (height, width), but the image has (12, 16)",
        "JPEGImages/e.jpg: the JPEG is truncated",
    ]


def test_every_fault_is_named_and_the_rest_is_converted(raw, tmp_path):
    out = tmp_path / "out"
    expected = _faults(raw)
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
    assert report.counts["train"]["human_parts"] == dict(written=1, none=1, damaged=1)


def test_what_is_mended_is_completed(raw, tmp_path):
    out, whole = tmp_path / "out", tmp_path / "whole"
    source = make_raw(tmp_path / "sound")
    convert(recipe(), source, whole)
    _faults(raw)
    convert(recipe(), raw, out)
    for path in source.rglob("*"):  # as newer files, a download that is repeated
        if path.is_file():
            target = raw / path.relative_to(source)
            if not target.is_file() or target.read_bytes() != path.read_bytes():
                target.write_bytes(path.read_bytes())
    report = convert(recipe(), raw, out)
    assert report.problems == []
    assert tree(out) == tree(whole)


def test_a_second_run_does_only_what_is_missing(raw, tmp_path):
    out = tmp_path / "out"
    convert(recipe(), raw, out)
    before = {p: p.stat().st_mtime_ns for p in out.rglob("*.[pj]*g")}
    assert convert(recipe(), raw, out).converted == 0
    (out / "edge/a.png").unlink()
    (out / "normals/d.png").write_bytes(b"")  # something that is not whole
    newer = raw / "human_parts/c.mat"
    save_parts(newer, thing(15, ("head", box(0, 12, 0, 16))))
    report = convert(recipe(), raw, out)
    assert report.converted == 3
    assert (read(out / "human_parts/c.png") == 1).all()
    assert {p.stem for p, t in before.items() if p.stat().st_mtime_ns != t} == {"a", "c", "d"}
    # A label that is no more is removed; another setting makes all anew.
    save_parts(newer, thing(8))
    assert convert(recipe(), raw, out).converted == 1
    assert not (out / "human_parts/c.png").exists()
    assert convert(recipe("x,-y,-z"), raw, out).converted == 5


def test_a_run_that_was_killed_goes_on(raw, tmp_path, monkeypatch):
    out, written = tmp_path / "out", []

    def killed(path, values, real=image.write_image):
        if len(written) == 7:
            raise KeyboardInterrupt
        written.append(path)
        real(path, values)

    monkeypatch.setattr(image, "write_image", killed)
    with pytest.raises(KeyboardInterrupt):
        convert(recipe(), raw, out)
    monkeypatch.undo()
    journal = out / "conversion.jsonl"
    journal.write_text(journal.read_text() + '{"id": "b", "sour')
    left = out / "edge/.b.png.abcdefgh.part"
    left.write_bytes(b"half")
    report = convert(recipe(), raw, out)
    assert report.converted == 4
    assert not left.exists()
    convert(recipe(), raw, tmp_path / "whole")
    assert tree(out) == tree(tmp_path / "whole")


@pytest.mark.parametrize("prefix", ["PASCAL_MT", "./data/PASCAL_MT", "."])
def test_the_archive_gives_the_same(raw, tmp_path, prefix):
    archive, out = tmp_path / "PASCAL_MT.tgz", tmp_path / "out"
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(raw, prefix)
    report = convert(recipe(), archive, out)
    assert report.problems == []
    convert(recipe(), raw, tmp_path / "whole")
    assert tree(out) == tree(tmp_path / "whole")
    assert not (out / ".unpacked").exists()
    assert convert(recipe(), archive, out).converted == 0


def test_an_archive_of_a_damaged_set_names_its_files(raw, tmp_path):
    expected = _faults(raw)
    archive = tmp_path / "PASCAL_MT.tgz"
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(raw, "PASCAL_MT")
    problems = convert(recipe(), archive, tmp_path / "out").problems
    assert len(problems) == len(expected)
    assert all(p.startswith(e) for p, e in zip(problems, expected, strict=True))
    assert str(tmp_path) not in " ".join(problems)


@pytest.mark.parametrize("mode", ["gz", "bz2", "xz", ""])
def test_a_truncated_archive_writes_nothing(raw, tmp_path, mode):
    archive = tmp_path / f"PASCAL_MT.tar{'.' * bool(mode)}{mode}"
    with tarfile.open(archive, f"w:{mode}") as tar:
        tar.add(raw, "PASCAL_MT")
    with tarfile.open(archive) as tar:
        starts = [member.offset for member in tar.getmembers()]
    whole = archive.read_bytes()
    # Also between two files and within a header, where nothing else is amiss.
    cuts = (
        [len(whole) // 2, len(whole) - 10]
        if mode
        else [starts[-2], starts[-1] + 100, starts[-1] - 9]
    )
    for cut in cuts:
        archive.write_bytes(whole[:cut])
        with pytest.raises(InputError, match=f"{archive}: the archive is damaged or truncated"):
            convert(recipe(), archive, tmp_path / "out")
        assert not (tmp_path / "out").exists()
    archive.write_bytes(whole)
    assert convert(recipe(), archive, tmp_path / "out").problems == []


def test_links_share_the_file_and_leave_it_as_it_is(raw, tmp_path):
    source, out = raw / "JPEGImages/a.jpg", tmp_path / "out"
    os.chmod(source, 0o600)
    convert(recipe(), raw, out, link=True)
    assert (out / "images/a.jpg").samefile(source)
    assert source.stat().st_mode & 0o777 == 0o600
    (out / "edge/a.png").unlink()
    assert convert(recipe(), raw, out, link=True).converted == 1
    assert (out / "images/a.jpg").samefile(source)


def test_two_workers_give_the_same(raw, tmp_path):
    convert(recipe(), raw, tmp_path / "one")
    convert(recipe(), raw, tmp_path / "two", workers=2)
    assert tree(tmp_path / "one") == tree(tmp_path / "two")


@pytest.mark.parametrize(
    ("things", "message"),
    [
        ([thing(15, ("wing", box(0, 1, 0, 1)))], "human_parts/b.mat: unknown part 'wing'"),
        ([thing(15, ("head", "text"))], "human_parts/b.mat: has not the structure of PASCAL-Part"),
        (
            [thing(15, ("head", box(0, 1, 0, 1)), ("torso", np.ones((3, 3))))],
            "human_parts/b.mat: has not the structure of PASCAL-Part",
        ),
    ],
)
def test_parts_that_cannot_be(raw, tmp_path, things, message):
    save_parts(raw / "human_parts/b.mat", *things)
    (problem,) = convert(recipe(), raw, tmp_path / "out").problems
    assert problem.startswith(message)


def test_classes_and_sizes_that_cannot_be(raw, tmp_path):
    save_png(raw / "semseg/VOC12/a.png", np.full(SIZE, 21))
    save_context(raw / "pascal-context/trainval/b.mat", np.full((11, 16), 3))
    save_context(raw / "pascal-context/trainval/d.mat", np.full(SIZE, 460))
    problems = convert(recipe(), raw, tmp_path / "out").problems
    assert problems == [
        "semseg/VOC12/a.png: expected 8-bit class indices 0..20 or 255 in one channel, found 21",
        "normals_distill/b.png: normals of size (12, 16) (height, width), but "
        "pascal-context/trainval/b.mat has (11, 16)",
        "pascal-context/trainval/b.mat: label of size (11, 16) (height, width), but the image has "
        "(12, 16)",
        "pascal-context/trainval/d.mat: expected classes 0..459, found 0..460",
    ]


def test_axes_that_the_data_disproves_are_named(raw, tmp_path, monkeypatch):
    monkeypatch.setattr("vmt_mm.conversion.normals._ENOUGH", 100)
    first, second = convert(recipe("x,y,-z"), raw, tmp_path / "out").problems
    assert first.startswith("normals: of the pixels with normals only ")
    assert "towards the camera: the third of the axes 'x,y,-z' is wrong" in first
    assert "of the floor pixels only 0% point up: the second of the axes" in second


def test_axes():
    vectors = np.float32([[1, 2, 3]])
    assert to_camera_frame(vectors, "x,-y,z").tolist() == [[1, -2, 3]]
    assert to_camera_frame(vectors, "-z,x,y").tolist() == [[-3, 1, 2]]
    assert pascal_context("x, -y, z").settings == dict(normals_axes="x,-y,z")
    for wrong in ("x,y", "x,y,y", "x,--y,z", "xy,z,", "right,up,z"):
        with pytest.raises(InputError, match="normals axes"):
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
    """A ring: the hole in it must stay."""
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
    output = run(sys.executable, script, raw, tmp_path / "out", "--workers", "2", code=1)
    assert "ImageSets/Context/train.txt: lists 3 ids, PASCAL_MT has 4,998" in output
    assert "PASCAL_MT is NOT whole: 2 problem(s), 5 image(s) converted now;" in output
    assert "human_parts" in output
    stored = json.loads((tmp_path / "out/report.json").read_text())
    assert stored["splits"]["val"]["expected"] == 5105


def test_wrong_arguments_are_one_line_each(raw, tmp_path, monkeypatch, capsys):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/notes.txt").write_text("mine")
    (tmp_path / "text.txt").write_text("no archive")
    nowhere = tmp_path / "nowhere"
    for source, target, axes, message in (
        (nowhere, tmp_path / "out", "x,y,z", "nowhere: expected a folder or an archive"),
        (tmp_path / "text.txt", tmp_path / "out", "x,y,z", "expected a folder or an archive"),
        (tmp_path, tmp_path / "raw/out", "x,y,z", "must not lie within each other"),
        (tmp_path / "mine", nowhere, "x,y,z", "ImageSets/Context/train.txt: no such file"),
        (raw, tmp_path / "mine", "x,y,z", "mine: is not empty and no converter wrote it"),
    ):
        with pytest.raises(InputError, match=message):
            convert(recipe(axes), Path(source), Path(target))
    assert not nowhere.exists()
    assert not (tmp_path / "out").exists()
    script = "tools/dataset_converters/pascal_context.py"
    code, output = run_here(
        monkeypatch, capsys, script, raw, tmp_path / "out", "--normals-axes=-x,y"
    )
    assert code == 1
    assert output.startswith("error: normals axes '-x,y'")
    assert len(output.splitlines()) == 1


def test_a_folder_of_another_data_set_is_refused(raw, tmp_path):
    convert(recipe(), raw, tmp_path / "out")
    other = dataclasses.replace(recipe(), name="NYUD_MT")
    with pytest.raises(InputError, match="out: holds PASCAL_MT, not NYUD_MT"):
        convert(other, raw, tmp_path / "out")


def test_ids_in_both_splits_are_named(raw, tmp_path):
    (raw / "ImageSets/Context/val.txt").write_text("d\na\n")
    report = convert(recipe(), raw, tmp_path / "out")
    assert report.problems == ["id 'a' is in more than one split"]
    assert set(VAL) - {"e"} <= set((tmp_path / "out/splits/val.txt").read_text().split())
