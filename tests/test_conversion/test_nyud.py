"""Conversion of a raw NYUD_MT, compared with labels written by hand."""

import dataclasses
import subprocess
import sys
import tarfile

import cv2
import numpy as np
import pytest
from PIL import Image

from vmt_mm.conversion import convert
from vmt_mm.conversion.nyud import nyud
from vmt_mm.datasets import NYUDMT

SIZE = (10, 14)
IDS = ("0001", "0002", "0003")


def recipe(axes="x,-y,z"):
    """The recipe, for a set of three images."""
    return dataclasses.replace(nyud(axes), expected=dict(train=2, val=1))


def raw_depth():
    depth = np.full(SIZE, 1.2346, np.float32)
    depth[0, :4] = 0, np.nan, -1, np.inf
    depth[1, 0] = 0.0001
    return depth


def raw_normals():
    normals = np.zeros((*SIZE, 3), np.float32)
    normals[1:] = 0, 0, 1
    normals[5:] = 0, -1, 0
    normals[9, 0] = np.nan
    return normals


@pytest.fixture
def raw(tmp_path):
    """Three images: none above, wall, then floor."""
    root = tmp_path / "raw"
    for folder in ("images", "segmentation", "depth", "normals", "edge", "gt_sets"):
        (root / folder).mkdir(parents=True)
    rng = np.random.default_rng(0)
    classes = np.zeros(SIZE, np.uint8)
    classes[1:], classes[5:], classes[9, 13] = 1, 2, 40
    edge = np.zeros(SIZE, np.float32)
    edge[5] = 1
    for i in IDS:
        cv2.imwrite(str(root / f"images/{i}.jpg"), rng.integers(0, 256, (*SIZE, 3), np.uint8))
        Image.fromarray(classes).save(root / f"segmentation/{i}.png")
        np.save(root / f"depth/{i}.npy", raw_depth())
        np.save(root / f"normals/{i}.npy", raw_normals())
        np.save(root / f"edge/{i}.npy", edge[..., None])
    (root / "gt_sets/train.txt").write_text("\n".join(IDS[:2]))
    (root / "gt_sets/val.txt").write_text(IDS[2])
    return root


def read(path):
    values = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    return values if values.ndim == 2 else values[..., ::-1]


def test_every_label_is_as_by_hand(raw, tmp_path):
    out = tmp_path / "out"
    report = convert(recipe(), raw, out)
    assert report.problems == []
    classes = read(out / "semseg/0001.png")
    assert (classes[0] == 255).all()
    assert (classes[1:5] == 0).all()
    assert (classes[5:9] == 1).all()
    assert classes[9, 13] == 39
    depth = read(out / "depth/0001.png")
    assert depth.dtype == np.uint16
    assert depth[0, :6].tolist() == [0, 0, 0, 0, 1235, 1235]
    assert depth[1, 0] == 1  # never 0, which means unlabelled
    normals = read(out / "normals/0001.png")
    assert normals[3, 3].tolist() == [128, 128, 255]
    assert normals[7, 3].tolist() == [128, 255, 128]  # the floor faces up
    assert (normals[0] == 0).all()
    assert (normals[9, 0] == 0).all()
    edge = read(out / "edge/0001.png")
    assert (edge[5] == 255).all()
    assert np.count_nonzero(edge) == SIZE[1]
    floor = 5 * SIZE[1] - 2  # except two: of another class, without a normal
    assert report.notes["normals"]["floor"] == report.notes["normals"]["up"] == 3 * floor


def test_the_converted_set_is_read_as_it_was_meant(raw, tmp_path):
    convert(recipe(), raw, tmp_path / "out")
    tasks = {name: dict(type=name.title()) for name in ("depth", "normals", "edge")}
    tasks["semseg"] = dict(type="Segmentation", num_classes=40)
    pipeline = [dict(type=t) for t in ("LoadImageFromFile", "LoadLabels", "PackMultiTaskInputs")]
    dataset = NYUDMT(str(tmp_path / "out"), tasks, pipeline=pipeline)
    assert [set(s["data_samples"].keys()) for s in dataset] == [{f"gt_{t}" for t in tasks}] * 2
    label = {task: dataset[0]["data_samples"].label(task).numpy() for task in tasks}
    assert label["semseg"][0, [0, 3, 7, 9], [0, 0, 0, 13]].tolist() == [255, 0, 1, 39]
    assert label["depth"][0, 0, :5] == pytest.approx([0, 0, 0, 0, 1.235])
    assert label["normals"][:, 3, 3] == pytest.approx([0, 0, 1], abs=0.01)
    assert label["normals"][:, 7, 3] == pytest.approx([0, 1, 0], abs=0.01)
    assert (label["edge"][0] == (np.arange(10) == 5)[:, None]).all()
    meta = dataset.metainfo["semseg"]
    assert (meta["classes"][1], meta["classes"][39]) == ("floor", "other prop")
    assert len({tuple(color) for color in meta["palette"]} - {(0, 0, 0)}) == 40


def test_every_fault_is_named_and_a_second_run_completes(raw, tmp_path):
    out = tmp_path / "out"
    (raw / "segmentation/0001.png").unlink()
    for name, values in (
        ("depth/0001", raw_depth() * 100),
        ("edge/0002", np.full(SIZE, 255)),
        ("normals/0002", raw_normals() * 127),
        ("normals/0003", raw_normals()[:, :5]),
    ):
        np.save(raw / f"{name}.npy", values)
    (raw / "depth/0002.npy").write_bytes(b"\x93NUMPY")
    np.save(raw / "edge/0003.npy", np.array({"a": 1}, object))  # must not be unpickled
    report = convert(recipe(), raw, out)
    expected = [
        "segmentation/0001.png: missing",
        "depth/0001.npy: expected at most 65.535 metres, got 123.46",
        "depth/0002.npy: cannot be read as a NumPy array",
        "normals/0002.npy: expected unit vectors, got an absolute value of 127",
        "edge/0002.npy: expected edges 0 or 1, got 255 to 255",
        "normals/0003.npy: normals of size (10, 5) (height, width), but segmentation/0003.png",
        "edge/0003.npy: cannot be read as a NumPy array",
    ]
    assert len(report.problems) == len(expected)
    assert all(any(p.startswith(e) for p in report.problems) for e in expected), report.problems
    assert (out / "normals/0001.png").is_file()  # needs no classes
    np.save(raw / "depth/0001.npy", raw_depth())
    report = convert(recipe(), raw, out)
    assert report.converted_now == 3  # the others have faults and are checked again
    assert len(report.problems) == 6
    assert read(out / "depth/0001.png")[5, 5] == 1235


def test_an_image_without_any_depth_or_normal_has_no_label(raw, tmp_path):
    np.save(raw / "depth/0001.npy", np.zeros(SIZE))
    np.save(raw / "normals/0001.npy", np.zeros((*SIZE, 3)))
    report = convert(recipe(), raw, tmp_path / "out")
    assert report.problems == []
    assert report.splits["train"]["depth"] == report.splits["train"]["normals"]
    assert report.splits["train"]["depth"] == dict(none=1, written=1)
    assert not (tmp_path / "out/depth/0001.png").exists()


def test_the_archive_gives_the_same(raw, tmp_path):
    with tarfile.open(tmp_path / "NYUD.tgz", "w:gz") as tar:
        tar.add(raw, "NYUD_MT")
    outs = [tmp_path / "a", tmp_path / "b"]
    for source, out in zip((raw, tmp_path / "NYUD.tgz"), outs, strict=True):
        assert convert(recipe(), source, out).problems == []
    files = [sorted(p.relative_to(out) for p in out.rglob("*.[pj]*g")) for out in outs]
    assert files[0] == files[1]
    assert len(files[0]) == 15
    assert all((outs[0] / f).read_bytes() == (outs[1] / f).read_bytes() for f in files[0])


def test_worker_processes_load_no_torch():
    code = (
        "import sys, vmt_mm.cli.conversion, vmt_mm.conversion.nyud\n"
        "import vmt_mm.conversion.pascal_context\n"
        "print({'torch', 'mmengine'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
