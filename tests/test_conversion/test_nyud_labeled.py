"""Conversion of a small nyu_depth_v2_labeled.mat; test_nyud.py has other files and no HDF5."""

import os
import sys
from unittest import mock

import cv2
import numpy as np
import pytest
import scipy.io

from vmt_mm.conversion.nyud import edge_of_classes, nyud_labeled
from vmt_mm.errors import InputError

SCRIPT = "tools/dataset_converters/nyud.py"
SIZE = (480, 640)
NORMAL = np.array([0.3, 0.5, 0.8]) / np.linalg.norm([0.3, 0.5, 0.8])


def scene():
    """Image, 894 classes and depth of a plane: two rows of classes, and a gap between columns."""
    image = np.random.default_rng(0).integers(0, 256, (*SIZE, 3), np.uint8)
    image = cv2.GaussianBlur(image, (0, 0), 5)
    labels = np.full(SIZE, 894, np.uint16)
    labels[200:] = 3
    labels[:, 300:306] = 0
    labels[:200, 306:] = 2
    x, y = np.meshgrid(
        (np.arange(640) - 325.582449) / 518.857901, (np.arange(480) - 253.736166) / 519.469611
    )
    metres = 2 / (NORMAL[2] - NORMAL[0] * x + NORMAL[1] * y)
    return image, labels, metres.astype(np.float32)


@pytest.fixture
def files(tmp_path):
    """The three published files with four images, of which the first two are for training."""
    h5py = pytest.importorskip("h5py", reason="extra 'mat' is not installed")
    image, labels, metres = scene()
    with h5py.File(tmp_path / "nyu_depth_v2_labeled.mat", "w", userblock_size=512) as content:
        # MATLAB's axes (H, W, 3, N) are (N, 3, W, H) in the file
        for key, values in (("images", image), ("labels", labels), ("depths", metres)):
            content[key] = np.stack([values.T] * 4)
    table = np.full((1, 894), 40, np.uint8)
    table[0, [0, 1, 2]] = 1, 7, 2
    scipy.io.savemat(tmp_path / "classMapping40.mat", dict(mapClass=table))
    splits = dict(trainNdxs=np.uint16([[1], [2]]), testNdxs=np.uint16([[4]]))
    scipy.io.savemat(tmp_path / "splits.mat", splits)
    return tmp_path


def arguments(files, *further):
    splits, mapping = f"--splits={files / 'splits.mat'}", "--class-mapping"
    line = (files / "nyu_depth_v2_labeled.mat", files / "out", "--workers=1", splits, mapping)
    return (*line, files / "classMapping40.mat", *further)


def read(path):
    values = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    return values if values.ndim == 2 else values[..., ::-1]


def test_every_label_is_as_by_hand(files, run_tool):
    # 3 of 1,449 images: the numbers are the only problems
    text = run_tool(SCRIPT, *arguments(files, "--normals-from", "depth"), code=1).text
    assert "train.txt: lists 2 ids, 795 are expected" in text
    assert "NOT complete: 2 problem(s), 3 image(s) converted now" in text
    out = files / "out"
    assert (out / "splits/train.txt").read_text() == "0001\n0002\n"
    assert (out / "splits/val.txt").read_text() == "0004\n"
    assert not (out / ".unpacked").exists()
    image, _, metres = scene()
    assert (read(out / "images/0004.png") == image).all()
    frame = np.ones(SIZE, bool)
    frame[6:474, 7:632] = False
    classes = read(out / "semseg/0001.png")
    assert (classes[frame] == 255).all()
    assert classes[100, [7, 299, 300, 305, 306]].tolist() == [39, 39, 255, 255, 6]
    assert classes[[199, 200, 473, 474], 20].tolist() == [39, 1, 1, 255]
    depth = read(out / "depth/0001.png")
    assert (depth == np.where(frame, 0, np.rint(metres.astype(float) * 1000))).all()
    edge = read(out / "edge/0001.png") > 0
    assert not edge[frame].any()
    assert edge[100:190].sum(axis=1).tolist() == [1] * 90  # one line in the gap of 6 pixels
    assert 300 <= np.flatnonzero(edge[150])[0] <= 305
    assert edge[:, 20:290].sum(axis=0).tolist() == [1] * 270
    assert not edge[220:].any()  # the same class on both sides
    normals = read(out / "normals/0002.png")
    labelled = normals.any(axis=-1)
    assert (labelled == ~frame).all()
    assert np.abs(normals[labelled] / 127.5 - 1 - NORMAL).max() < 0.01
    # a second run converts nothing; another mapping, everything
    again = arguments(files, "--normals-from", "depth")
    assert " 0 image(s) converted now" in run_tool(SCRIPT, *again, code=1).text
    scipy.io.savemat(files / "classMapping40.mat", dict(mapClass=np.full((1, 894), 5)))
    assert " 3 image(s) converted now" in run_tool(SCRIPT, *again, code=1).text
    assert set(np.unique(read(out / "semseg/0001.png"))) == {4, 255}


def test_without_the_option_there_are_no_normals(files, run_tool):
    run_tool(SCRIPT, *arguments(files), code=1)
    assert sorted(path.name for path in (files / "out").iterdir() if path.is_dir()) == [
        *("depth", "edge", "images", "semseg", "splits")
    ]


def test_large_unlabelled_areas_have_no_edges(tmp_path):
    classes = np.zeros((60, 90), np.uint8)
    classes[:, :20], classes[:, 24:40], classes[:, 70:] = 1, 2, 3
    cv2.imwrite(str(tmp_path / "a.png"), classes)
    values = edge_of_classes(tmp_path / "a.png").values
    columns = np.flatnonzero(values.any(axis=0))
    assert len(columns) == 1
    assert 20 <= columns[0] <= 24
    cv2.imwrite(str(tmp_path / "b.png"), 0 * classes)
    assert edge_of_classes(tmp_path / "b.png").values is None


def test_every_wrong_file_is_named(files, run_tool):
    h5py, mapping = sys.modules["h5py"], files / "classMapping40.mat"
    good = mapping.read_bytes()

    def error():
        text = run_tool(SCRIPT, *arguments(files), code=1).text
        assert not (files / "out").exists()
        return text.replace("\n", " ")

    scipy.io.savemat(mapping, dict(mapClass=[[1, 41]]))
    assert f"{mapping}: expected classes 1 to 40 in mapClass" in error()
    scipy.io.savemat(mapping, dict(mapClass=np.ones((1, 893))))
    assert "nyu_depth_v2_labeled.mat: not nyu_depth_v2_labeled.mat, or damaged" in error()
    mapping.write_bytes(good)
    scipy.io.savemat(files / "splits.mat", dict(trainNdxs=[[1]]))
    assert "splits.mat: has no variable 'testNdxs'" in error()
    scipy.io.savemat(files / "splits.mat", dict(trainNdxs=[[1]], testNdxs=[[2]]))
    with h5py.File(files / "nyu_depth_v2_labeled.mat", "w") as content:
        content["images"] = np.zeros((1, 3, 4, 4), np.uint8)
    assert "labels" in error()
    os.truncate(files / "nyu_depth_v2_labeled.mat", 100)
    assert "not nyu_depth_v2_labeled.mat, or damaged" in error()


def test_options_that_do_not_fit_are_refused(tmp_path, run_tool):
    def error(source, *options):
        return run_tool(SCRIPT, tmp_path / source, tmp_path / "out", *options, code=1).text

    files = ("--splits=a.mat", "--class-mapping=b.mat")
    assert "needs --splits and --class-mapping" in error("x.mat", files[0])
    assert "are for nyu_depth_v2_labeled.mat only" in error("x.tgz", *files)
    assert "--intrinsics needs --normals-from depth" in error("x.tgz", "--intrinsics", *"1234")
    assert "camera of NYUD_MT is not known" in error("x.tgz", "--normals-from=depth")


def test_without_h5py_one_error_says_what_to_install(tmp_path):
    with (
        mock.patch.dict(sys.modules, {"h5py": None}),
        pytest.raises(InputError, match="needs h5py, install it with `pip install h5py`"),
    ):
        nyud_labeled(tmp_path / "splits.mat", tmp_path / "classMapping40.mat")
