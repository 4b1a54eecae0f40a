"""The demo scripts, as a user runs them."""

import os

import cv2
import numpy as np
import pytest
from commands import ROOT
from untrained import CONFIG_FILE, OPTIONS, write_images

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
    assert frames[0].shape[1] == 3 * _SIZE[0]
    demo(
        "video_demo.py", clip, "--output-file", tmp_path / "out.avi", "--output-fps", "5",
        "--output-height", "81", "--tasks", "semseg", "--opacity", "0",
    )  # fmt: skip
    frames, fps = read_video(tmp_path / "out.avi")
    assert fps == pytest.approx(5) and frames[0].shape[0] in (103, 104)
    assert abs(int(frames[3][60, 150].mean()) - 120) < 6  # the frame is not covered


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
