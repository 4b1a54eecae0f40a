"""The web page: predictions, display and downloads."""

import io
import runpy
import sys
import urllib.request
import zipfile
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from commands import ROOT
from PIL import Image
from untrained import TASKS, write_images

from vmt_mm.apis import MultiTaskInferencer, inference
from vmt_mm.errors import InputError

page = SimpleNamespace(**runpy.run_path(str(ROOT / "demo/webapp.py")))
predict = page.predict


def test_the_panel_and_the_overlays(inferencer, tmp_path):
    [path] = write_images(tmp_path, 1)
    found = predict(inferencer, path, TASKS, 1)
    panel, overlays = page.draw(inferencer, found, 0.5)
    assert list(overlays) == list(TASKS)
    assert all(overlay.shape == found.image.shape for overlay in overlays.values())
    assert panel.shape[1] > 2 * found.image.shape[1]
    _, overlays = page.draw(inferencer, predict(inferencer, path, ["normals"], 1), 0.5)
    assert list(overlays) == ["normals"]


def test_the_archive(inferencer, tmp_path):
    [path] = write_images(tmp_path, 1)
    found = predict(inferencer, path, ["semseg", "normals"], 1)
    zipped = page.write_archive(inferencer, found, tmp_path, 0)
    assert zipped.name == "image_000_predictions.zip"
    with zipfile.ZipFile(zipped) as archive:
        names = {f"{t}/image_000.png" for t in ("semseg", "normals")}
        overlays = {"overlays/semseg.png", "overlays/normals.png"}
        assert set(archive.namelist()) == names | overlays | {"panel.png"}
        values = np.array(Image.open(io.BytesIO(archive.read("semseg/image_000.png"))))
        overlay = np.array(Image.open(io.BytesIO(archive.read("overlays/semseg.png"))))
    assert np.array_equal(values, found.sample.prediction("semseg").numpy()[0])
    assert np.array_equal(overlay[..., ::-1], cv2.imread(str(path)))  # at opacity 0


@pytest.mark.parametrize("content", [b"", b"this is text", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff"])
def test_files_that_are_not_images(inferencer, tmp_path, content):
    (tmp_path / "notes.png").write_bytes(content)
    with pytest.raises(InputError, match=r"^notes\.png") as told:
        predict(inferencer, tmp_path / "notes.png", TASKS, 1)
    assert str(tmp_path) not in str(told.value)


def test_images_that_are_too_large_or_missing(inferencer, tmp_path):
    Image.new("RGB", (300, 200)).save(tmp_path / "large.png")
    with pytest.raises(InputError, match=r"large\.png has 0\.1 megapixels; at most 0\.05"):
        predict(inferencer, tmp_path / "large.png", TASKS, 0.05)
    with pytest.raises(InputError, match="Upload it again"):
        predict(inferencer, tmp_path / "gone.png", TASKS, 1)
    with pytest.raises(InputError, match="at least one task"):
        predict(inferencer, tmp_path / "large.png", [], 1)


def test_a_truncated_image(inferencer, tmp_path):
    [path] = write_images(tmp_path, 1)
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(InputError, match="truncated"):
        predict(inferencer, path, TASKS, 1)


def test_photographs_are_upright_as_the_browser_shows_them(model, tmp_path):
    inferencer = MultiTaskInferencer(model, show_progress=False, turn_by_exif=True)
    image = np.random.default_rng(0).integers(0, 255, (20, 30, 3), dtype=np.uint8)
    exif = Image.Exif()
    exif[0x112] = 6
    Image.fromarray(image).save(tmp_path / "a.png", exif=exif)
    found = predict(inferencer, tmp_path / "a.png", TASKS, 1)
    upright = np.ascontiguousarray(np.rot90(image, -1))
    assert np.array_equal(found.image, upright)
    expected = inference.inference_model(model, np.ascontiguousarray(upright[..., ::-1]))
    assert all(torch.equal(found.sample.prediction(t), expected.prediction(t)) for t in TASKS)


def test_examples_are_the_same_every_time(tmp_path):
    first, again = (page.render_examples(tmp_path / name, 2, 32) for name in "ab")
    contents = [path.read_bytes() for path in (*first, *again)]
    assert contents[:2] == contents[2:] and contents[0] != contents[1]


def test_gradio_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "gradio", None)
    with pytest.raises(InputError, match=r"pip install 'vmt_mm\[webapp\]'"):
        page.import_gradio()


def test_the_embedded_model_is_missing(run_tool, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "gradio", sys)  # unused
    monkeypatch.setattr(inference, "EMBEDDED_ADAPTER", str(tmp_path / "none.safetensors"))
    printed = run_tool("demo/webapp.py", code=1).text
    assert "none.safetensors" in printed and "make demo" in printed


def test_the_page_predicts_an_example_and_an_upload(inferencer, tmp_path):
    pytest.importorskip("gradio", reason="needs the extra `webapp`")
    blocks = page.build_page(inferencer, "title", tmp_path)
    run, show, archive = (
        next(f.fn for f in blocks.fns.values() if getattr(f.fn, "__name__", "") == name)
        for name in ("run", "show", "archive")
    )
    found = run(str(tmp_path / "examples/scene_1.png"), list(TASKS))
    panel, overlays, text = show(found, 70)
    assert panel.dtype == np.uint8
    assert [name for _, name in overlays] == ["scene_1", *TASKS]
    assert zipfile.is_zipfile(archive(found, 70))
    assert text == f"scene_1, 224 x 224 pixels: 4 task(s) in {found.seconds:.2f} s on cpu"
    assert 0 < found.seconds < 60
    assert show(run(None, list(TASKS)), 70) == (None, [], "")
    (tmp_path / "text.png").write_text("this is text")
    with pytest.raises(Exception, match="text.png cannot be read as an image"):
        run(str(tmp_path / "text.png"), list(TASKS))
    _, address, _ = blocks.launch(prevent_thread_lock=True, quiet=True, ssr_mode=False)
    try:
        assert b"title" in urllib.request.urlopen(address).read()
    finally:
        blocks.close()
