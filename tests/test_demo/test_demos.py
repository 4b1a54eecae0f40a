"""The demo scripts, as a user runs them."""

import os
import runpy
import shutil
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from commands import ROOT
from untrained import CONFIG_FILE, OPTIONS, TASKS, write_images

from vmt_mm.apis.inference import EMBEDDED_ADAPTER
from vmt_mm.errors import InputError
from vmt_mm.tasks import build_tasks

_SIZE = (48, 40)


@pytest.fixture
def demo(run_tool, monkeypatch, checkpoint):
    """Run a demo script with the small model; return what it printed."""
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)

    def call(script, source, *more, weights=(checkpoint,), code=0):
        arguments = (source, CONFIG_FILE, *weights, "--device", "cpu", *more, *OPTIONS)
        output = run_tool(f"demo/{script}", *arguments, code=code)
        assert output.text.count("error:") == code
        return output.text if code else output.out

    return call


@pytest.fixture
def clip(tmp_path):
    """A video of 6 frames."""
    path = tmp_path / "clip.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 10, _SIZE)
    for number in range(6):
        writer.write(np.full((_SIZE[1], _SIZE[0], 3), 40 * number, np.uint8))
    writer.release()
    return path


def read_video(path):
    """Frames, and frames per second."""
    capture = cv2.VideoCapture(str(path))
    frames = []
    while (frame := capture.read())[0]:
        frames.append(frame[1])
    return frames, capture.get(cv2.CAP_PROP_FPS)


def test_one_image(demo, tmp_path):
    [image] = write_images(tmp_path, 1)
    out = tmp_path / "sub/picture.png"
    assert str(out) in demo("image_demo.py", image, "--out-file", out)
    all_tasks = cv2.imread(str(out))
    demo("image_demo.py", image, "--out-file", out, "--opacity", "0.5", "--tasks", "semseg")
    one_task = cv2.imread(str(out))
    assert one_task.shape[1] < all_tasks.shape[1] / 2
    assert "no display" in demo("image_demo.py", image, code=1)
    assert "needs a checkpoint" in demo(
        "image_demo.py", image, "--out-file", out, weights=(), code=1
    )
    out.unlink()
    (tmp_path / "text.jpg").write_text("this is text")
    printed = demo("image_demo.py", tmp_path / "text.jpg", "--out-file", out, code=1)
    assert "text.jpg" in printed and not list(out.parent.iterdir())


def test_two_models(demo, checkpoint, tmp_path):
    [image] = write_images(tmp_path, 1)
    one, two, maps = (tmp_path / f"{name}.png" for name in ("one", "two", "maps"))
    other = shutil.copy(checkpoint, tmp_path / "other.pth")
    model, tasks = ("--compare", CONFIG_FILE, other), ("--tasks", "normals", "semseg")
    demo("image_demo.py", image, "--out-file", one, *tasks)
    demo("image_demo.py", image, *model, "--out-file", two, *tasks)
    demo("image_demo.py", image, *model, "--out-file", maps, *tasks, "--maps-only")
    one, two, maps = (cv2.imread(str(path)) for path in (one, two, maps))
    assert two.shape[1] == one.shape[1] and two.shape[0] > one.shape[0] + 200
    assert maps.shape[0] == two.shape[0] and maps.shape[1] < 0.75 * two.shape[1]
    out = ("--out-file", tmp_path / "x.png")
    wrong = ("--compare", CONFIG_FILE, other, other)
    assert "takes a config and a checkpoint" in demo("image_demo.py", image, *wrong, *out, code=1)
    wrong = ("--compare", EMBEDDED_ADAPTER)
    assert "needs no checkpoint and no option" in demo("image_demo.py", image, *wrong, *out, code=1)


def test_models_of_different_tasks_are_not_compared(model):
    join = runpy.run_path(str(ROOT / "demo/image_demo.py"))["join_tasks"]
    tasks, meta = join([model, model])
    assert list(tasks) == TASKS and list(meta) == TASKS
    for change in (dict(classes=["a"] * 8), {}):
        other = SimpleNamespace(tasks=model.tasks, dataset_meta=dict(semseg=change))
        with pytest.raises(InputError, match="--compare: task 'semseg' differs: Segmentation"):
            join([model, other])
    more = dict(semseg=dict(type="Segmentation", num_classes=3), depth=dict(type="Depth"))
    other = SimpleNamespace(tasks=build_tasks(more), dataset_meta={})
    with pytest.raises(InputError, match="with 3 channels"):
        join([model, other])
    del other.tasks["semseg"]
    assert list(join([model, other])[0]) == [*TASKS, "depth"]


def test_a_folder(demo, tmp_path):
    write_images(tmp_path / "in", 3)
    out = tmp_path / "out"
    (tmp_path / "in/broken.jpg").write_bytes(b"\xff\xd8\xff")
    more = ("--out-dir", out, "--batch-size", "2", "--tasks", "semseg", "--panels")
    script = "image_demo_with_inferencer.py"
    assert "broken.jpg" in demo(script, tmp_path / "in", *more, code=1)
    printed = demo(script, tmp_path / "in", *more, "--on-error", "skip")
    assert "predictions of 3 image(s)" in printed and "broken.jpg" in printed
    assert {p.parent.name for p in out.rglob("*.png")} == {"semseg", "panels"}


def test_a_video(demo, clip, tmp_path):
    out = tmp_path / "out.mp4"
    demo("video_demo.py", clip, "--output-file", out, "--tasks", "semseg", "normals")
    frames, fps = read_video(out)
    assert len(frames) == 6 and fps == pytest.approx(10)
    three = frames[0].shape
    demo(
        "video_demo.py", clip, "--output-file", tmp_path / "out.avi", "--output-fps", "5",
        "--output-height", "81", "--tasks", "semseg", "--opacity", "0",
    )  # fmt: skip
    frames, fps = read_video(tmp_path / "out.avi")
    assert fps == pytest.approx(5) and frames[0].shape[0] == 82
    assert frames[0].shape[1] / 82 < three[1] / three[0]  # two pictures and not three
    for number, frame in enumerate(frames[:4]):
        shown = np.abs(frame[30:40].astype(int) - 40 * number).max(axis=-1) < 10
        assert shown.mean() > 0.75  # the image twice, not covered by the prediction


def test_wrong_videos_leave_nothing(demo, clip, tmp_path):
    (tmp_path / "text.mp4").write_text("no video")
    out = tmp_path / "out.mp4"
    for source, more, message in (
        (tmp_path / "missing.mp4", ("--output-file", out), "no such video"),
        (tmp_path / "text.mp4", ("--output-file", out), "no frame can be decoded"),
        (clip, ("--output-file", tmp_path / "out.txt"), "the suffix of a video must be"),
        (clip, ("--output-file", out, "--output-fourcc", "ab"), "four letters"),
        (clip, ("--output-file", out, "--output-fps", "0"), "--output-fps must be positive"),
        (clip, (), "nothing to do"),
        (clip, ("--show",), "no display"),
    ):
        assert message in demo("video_demo.py", source, *more, code=1)
    assert sorted(os.listdir(tmp_path)) == ["clip.avi", "text.mp4"]


def test_help_of_all_demos(run_tool):
    for script in sorted((ROOT / "demo").glob("*.py")):
        assert "--device" in run_tool(script.relative_to(ROOT), "--help").out
