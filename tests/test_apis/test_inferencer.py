"""The inferencer, on any number of inputs of any kind."""

import gc
import os
import shutil

import cv2
import numpy as np
import pytest
from untrained import SIZES, TASKS, equal, write_images

from vmt_mm.apis import inference_model
from vmt_mm.errors import CorruptFileError, InputError

_IMAGE = np.full((9, 12, 3), 77, np.uint8)


@pytest.fixture
def folder(tmp_path):
    """Images of mixed sizes."""
    write_images(tmp_path / "in", 7)
    return tmp_path / "in"


def write_video(path, frames=5):
    """Write a video of 32 x 24 pixels whose frames differ."""
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 10, (32, 24))
    for number in range(frames):
        writer.write(np.full((24, 32, 3), 40 * number, np.uint8))
    writer.release()


def test_a_folder_in_batches_equals_single_images(inferencer, model, folder):
    samples = inferencer(folder, batch_size=3)
    assert [s.sample_id for s in samples] == [f"image_{i:03d}" for i in range(7)]
    for index, sample in enumerate(samples):
        assert sample.prediction("normals").shape[1:] == SIZES[index % len(SIZES)]
        assert equal(sample, inference_model(model, sample.img_path))
    assert not equal(samples[0], samples[4])  # of one size, different images


def test_files_in_the_one_layout(inferencer, model, folder, tmp_path):
    out = tmp_path / "out"
    result = inferencer(
        str(folder / "image_00[0-4].png"), out_dir=out, batch_size=2, panels=True, opacity=0.5,
        tasks=["semseg", "normals"], return_datasamples=False,
    )  # fmt: skip
    assert result == dict(images=5, skipped={})
    assert sorted(p.name for p in out.iterdir()) == ["normals", "panels", "semseg"]
    for number in range(5):
        name = f"image_{number:03d}.png"
        sample = inference_model(model, folder / name)
        for task in ("semseg", "normals"):
            label = model.tasks[task].label
            written = cv2.imread(str(out / task / name), cv2.IMREAD_UNCHANGED)
            expected = label.encode(sample.prediction(task).numpy())
            written = written[..., ::-1] if written.ndim == 3 else written
            assert written.shape == expected.shape
            assert (np.abs(written.astype(int) - expected) > 1).mean() < 1e-3
        assert cv2.imread(str(out / "panels" / name)).shape[1] > 500


def test_subfolders_keep_their_structure(inferencer, folder, tmp_path):
    (folder / "more").mkdir()
    shutil.copy(folder / "image_000.png", folder / "more/image_000.png")
    (folder / "notes.txt").write_text("no image")
    ids = [s.sample_id for s in inferencer(folder, tasks=["semseg"], out_dir=tmp_path / "out")]
    assert len(ids) == 8 and "more/image_000" in ids
    assert (tmp_path / "out/semseg/more/image_000.png").is_file()
    found = inferencer(f"{folder}/**/image_000.png", tasks=["semseg"])
    assert [s.sample_id for s in found] == ["image_000", "more/image_000"]
    (folder / "@eaDir").mkdir()  # a file server's folder, which a search skips as well
    shutil.copy(folder / "image_000.png", folder / "@eaDir/image_000.png")
    found = inferencer(f"{folder}/**/image_000.png", tasks=["semseg"])
    assert [s.sample_id for s in found] == ["image_000", "more/image_000"]


def test_hidden_files_links_and_the_home_folder(inferencer, folder, tmp_path, monkeypatch):
    for name in (".hidden.png", "._image_000.png", "__MACOSX/a.png", ".cache/a.png", "a.png~"):
        (folder / name).parent.mkdir(exist_ok=True)
        shutil.copy(folder / "image_000.png", folder / name)
    shutil.move(folder, tmp_path / "elsewhere")
    folder.mkdir()
    (folder / "linked ü").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    monkeypatch.setenv("HOME", str(tmp_path))
    inferencer("~/in/", tasks=["semseg"], out_dir="~/out", return_datasamples=False)
    written = sorted(p.name for p in (tmp_path / "out/semseg/linked ü").iterdir())
    assert written == [f"image_{i:03d}.png" for i in range(7)]


def test_arrays_videos_and_lists(inferencer, folder, tmp_path):
    write_video(tmp_path / "clip.avi")
    inputs = [_IMAGE, tmp_path / "clip.avi", str(folder / "image_002.png")]
    samples = inferencer(inputs, batch_size=4, tasks="saliency")
    ids = ["00000000", *(f"clip/{i:06d}" for i in range(5)), "image_002"]
    assert [s.sample_id for s in samples] == ids
    assert samples[3].prediction("saliency").shape == (1, 24, 32)
    assert not equal(samples[1], samples[5], ["saliency"])


def test_a_stream_reads_only_requested_images(inferencer, folder, monkeypatch):
    read = []
    real = inferencer.pipeline.read
    monkeypatch.setattr(inferencer.pipeline, "read", lambda p: read.append(p) or real(p))
    stream = inferencer.stream(folder, batch_size=2, tasks=["semseg"])
    assert not read
    next(stream)
    assert len(read) == 2


def test_damaged_files(inferencer, folder, tmp_path, capsys):
    content = (folder / "image_001.png").read_bytes()
    (folder / "image_001.png").write_bytes(content[: len(content) // 2])
    (folder / "image_003.png").write_text("this is text")
    with pytest.raises(CorruptFileError, match=r"image_001\.png: the PNG is truncated"):
        inferencer(folder)
    result = inferencer(
        folder, on_error="skip", out_dir=tmp_path / "out", return_datasamples=False, batch_size=2
    )
    names = [str(folder / f"image_00{i}.png") for i in (1, 3)]
    assert result["images"] == 5 and list(result["skipped"]) == names
    printed = capsys.readouterr().out
    assert "2 input(s) could not be read" in printed and all(name in printed for name in names)
    written = sorted(p.stem for p in (tmp_path / "out/semseg").iterdir())
    assert written == [f"image_00{i}" for i in (0, 2, 4, 5, 6)]
    assert inferencer(folder / "image_000.png") and not inferencer.skipped


def test_a_damaged_video(inferencer, tmp_path):
    (tmp_path / "clip.mp4").write_text("no video")
    with pytest.raises(CorruptFileError, match=r"clip\.mp4: no frame"):
        inferencer(tmp_path / "clip.mp4")


def test_outputs_that_would_collide(inferencer, folder, tmp_path):
    out = tmp_path / "out"
    shutil.copy(folder / "image_000.png", folder / "image_000.jpg")
    with pytest.raises(InputError, match="2 inputs have the same output name 'image_000'"):
        inferencer(folder, out_dir=out)
    (folder / "image_000.jpg").unlink()
    write_video(folder / "clip.avi")
    (folder / "clip").mkdir()
    shutil.copy(folder / "image_000.png", folder / "clip/000000.png")
    with pytest.raises(InputError, match="2 inputs have the same output name 'clip'"):
        inferencer(folder, out_dir=out)
    for same in (folder, tmp_path):
        with pytest.raises(InputError, match="would overwrite the input"):
            inferencer(folder / "image_000.png", out_dir=same)
    assert not out.exists()


@pytest.mark.parametrize(
    ("inputs", "options", "message"),
    [
        ("missing.png", {}, "missing.png: no such file"),
        ("missing/*.png", {}, r"found no image or video \(\.jpg, "),
        ("", {}, "expected a path or array"),
        ([], {}, "the list is empty"),
        ([3], {}, "got int"),
        (_IMAGE.astype(float), {}, "input 00000000: has float64 values"),
        (_IMAGE, dict(batch_size=0), "batch_size"),
        (_IMAGE, dict(on_error="ignore"), "on_error"),
        (_IMAGE, dict(tasks=["pose"]), "unknown task"),
        (_IMAGE, dict(tasks=[]), "one or more distinct names"),
        (_IMAGE, dict(opacity=2), "opacity"),
        (_IMAGE, dict(panels=True), "`panels=True` needs `out_dir`"),
    ],
)
def test_wrong_options_are_told_before_the_first_image(inferencer, inputs, options, message):
    with pytest.raises(InputError, match=message):
        inferencer.stream(inputs, **options)


def _resident_bytes():
    with open("/proc/self/statm") as statm:
        return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.skipif(not os.path.exists("/proc/self/statm"), reason="memory is read from /proc")
def test_memory_does_not_grow_with_the_number_of_images(inferencer, tmp_path):
    """Predictions of one image take 0.8 MB, so any that are kept would show."""
    images = [np.full((200, 200, 3), i, np.uint8) for i in range(60)]
    grown = []
    for number, sample in enumerate(inferencer.stream(images, batch_size=4)):
        assert set(sample.keys()) == {f"pred_{task}" for task in TASKS}
        if number == 11:
            gc.collect()
            start = _resident_bytes()
    gc.collect()
    grown = _resident_bytes() - start
    assert grown < 12e6, f"{grown / 1e6:.1f} MB for 48 images"
