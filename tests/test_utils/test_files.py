"""Files are written atomically: complete or not at all."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vmt_mm.errors import InputError
from vmt_mm.utils import files
from vmt_mm.utils.files import (
    check_file_target,
    check_folder_target,
    check_image_target,
    check_outputs,
    write_bytes,
    write_image,
    write_json,
)


def test_content_mode_and_folders(tmp_path):
    path = tmp_path / "deep" / "er" / "file.bin"
    write_bytes(path, b"\x00new")
    assert path.read_bytes() == b"\x00new"
    # Readable by others, unlike a temporary file.
    assert path.stat().st_mode & 0o777 == 0o644
    write_bytes(path, b"x")
    assert path.read_bytes() == b"x"
    assert [p.name for p in path.parent.iterdir()] == ["file.bin"]


@pytest.mark.parametrize("step", ["fsync", "chmod", "replace"])
@pytest.mark.parametrize("error", [OSError("disk full"), KeyboardInterrupt()])
def test_failure_keeps_the_old_file_and_leaves_no_other(tmp_path, monkeypatch, step, error):
    path = tmp_path / "file.bin"
    path.write_bytes(b"old")

    def fail(*_):
        # Until the last step, a reader must get the old content.
        assert path.read_bytes() == b"old"
        raise error

    monkeypatch.setattr(os, step, fail)
    for target in (path, tmp_path / "new.bin"):
        with pytest.raises(type(error)):
            write_bytes(target, b"new" * 1000)
    monkeypatch.undo()
    assert [p.name for p in tmp_path.iterdir()] == ["file.bin"]
    assert path.read_bytes() == b"old"


def test_content_is_on_disk_before_the_name(tmp_path, monkeypatch):
    path, replace, sizes = tmp_path / "file.bin", os.replace, []

    def look(source, target):
        assert Path(source).parent == tmp_path  # across file systems, a rename is not atomic
        sizes.append(Path(source).stat().st_size)
        replace(source, target)

    monkeypatch.setattr(files.os, "replace", look)
    write_bytes(path, b"x" * 70000)
    assert sizes == [70000]


def test_json_is_written_atomically(tmp_path):
    path = tmp_path / "table.json"
    write_json(path, dict(a=[1, 2.5, None]))
    assert json.loads(path.read_text()) == dict(a=[1, 2.5, None])
    with pytest.raises(TypeError):
        write_json(path, dict(a=object()))
    assert json.loads(path.read_text()) == dict(a=[1, 2.5, None])
    assert [p.name for p in tmp_path.iterdir()] == ["table.json"]


@pytest.mark.parametrize(
    ("shape", "dtype"), [((4, 5), np.uint8), ((4, 5, 3), np.uint8), ((4, 5), np.uint16)]
)
def test_image_keeps_values_and_channel_order(tmp_path, shape, dtype):
    image = np.random.default_rng(0).integers(0, np.iinfo(dtype).max, shape).astype(dtype)
    path = tmp_path / "image.png"
    write_image(path, image)
    with Image.open(path) as found:
        np.testing.assert_array_equal(np.array(found), image)


@pytest.mark.parametrize(
    ("name", "image"),
    [("image.xyz", np.zeros((2, 2), np.uint8)), ("image.png", np.zeros((0, 2), np.uint8))],
)
def test_image_that_cannot_be_encoded_is_an_input_error(tmp_path, name, image):
    with pytest.raises(InputError, match=name):
        write_image(tmp_path / name, image)
    assert not list(tmp_path.iterdir())


def test_targets_are_checked_before_any_work(tmp_path):
    (tmp_path / "file").write_text("x")
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o500)
    check_folder_target(tmp_path / "new" / "deep", "--out")
    check_file_target(tmp_path / "new" / "a.pth")
    check_image_target(tmp_path / "file.png")
    assert {p.name for p in tmp_path.iterdir()} == {"file", "closed"}  # nothing was created
    with pytest.raises(InputError, match=r"--out .*below: cannot write there, .* not a folder"):
        check_folder_target(tmp_path / "file" / "below", "--out")
    with pytest.raises(InputError, match="is a folder; expected a file"):
        check_file_target(tmp_path)
    with pytest.raises(InputError, match="cannot write this image format"):
        check_image_target(tmp_path / "a.foo")
    if os.geteuid():  # root may write everywhere
        with pytest.raises(InputError, match="is not writable"):
            check_file_target(closed / "a.pth")


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A dataset's folder with a label, and a checkpoint; the current folder is the parent."""
    for folder in ("data/images", "data/floor", "labels", "elsewhere"):
        (tmp_path / folder).mkdir(parents=True)
    for file in ("data/floor/a.png", "labels/b.png", "model.pth"):
        (tmp_path / file).write_bytes(b"1")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


READ = ("data", "model.pth", None, "https://example.org/data", np.zeros(3))


@pytest.mark.parametrize(
    "output",
    [
        "data",
        "data/",
        "./elsewhere/../data",
        "~/data",
        "data/floor",
        "data/floor/new/deeper",
        "data/predictions",
        ".",
        "..",
        "model.pth",
        "../{name}/model.pth",
    ],
)
def test_an_output_must_not_be_an_input(place, output):
    output = output.format(name=place.name)
    with pytest.raises(InputError, match=r"^--out .*data|^--out .*model"):
        check_outputs({"--out": output}, READ)
    with pytest.raises(InputError, match="--out"):
        check_outputs({"--none": None, "--out": place / Path(output).expanduser()}, READ)


def test_an_output_that_leads_to_an_input_by_links(place):
    (place / "link").symlink_to("data")
    (place / "out").mkdir()
    (place / "out" / "floor").symlink_to(place / "data" / "floor")
    (place / "same.pth").hardlink_to("model.pth")
    (place / "soft.pth").symlink_to("model.pth")
    for output in ("link", "link/floor", "link/new", "out", "same.pth", "soft.pth"):
        with pytest.raises(InputError, match="would overwrite the input"):
            check_outputs(dict(out=output), READ)


def test_an_input_that_lies_elsewhere_by_links(place):
    (place / "data" / "depth").symlink_to(place / "labels")
    (place / "farm" / "floor").mkdir(parents=True)
    (place / "farm" / "floor" / "b.png").symlink_to(place / "labels" / "b.png")
    for read in ("data", "farm", "farm/floor"):
        for output in ("labels", Path(".")):
            with pytest.raises(InputError, match="would overwrite the input"):
                check_outputs(dict(out=output), [read])
        check_outputs(dict(out="elsewhere"), [read])


def test_allowed_outputs(place):
    (place / "work").mkdir()
    (place / "work" / "epoch_1.pth").write_bytes(b"1")
    for output in ("elsewhere", "new/folder", "data2", "model.onnx"):
        check_outputs(dict(out=output), READ)
    check_outputs(dict(work_dir="work"), ["work/epoch_1.pth"], may_hold=True)
    check_outputs(dict(work_dir="."), ["data"], may_hold=True)
    (place / "work" / "last.pth").symlink_to("epoch_1.pth")
    check_outputs(dict(work_dir="work"), ["work/epoch_1.pth"], may_hold=True)
    with pytest.raises(InputError, match="work_dir data/images"):
        check_outputs(dict(work_dir="data/images"), ["data"], may_hold=True)


def test_the_file_system_decides_on_letter_case(place):
    if (place / "DATA").exists():
        with pytest.raises(InputError):
            check_outputs(dict(out="DATA"), READ)
    else:
        check_outputs(dict(out="DATA"), READ)
