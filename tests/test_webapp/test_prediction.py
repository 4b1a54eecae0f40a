"""What the web page shows and gives to download; neither Gradio nor a browser is needed."""

import io
import sys
import zipfile

import cv2
import numpy as np
import pytest
import torch
from here import run_here
from PIL import Image
from untrained import TASKS, write_images

from vmt_mm.apis import inference
from vmt_mm.errors import InputError
from vmt_mm.webapp import page
from vmt_mm.webapp.app import import_gradio
from vmt_mm.webapp.examples import render_examples
from vmt_mm.webapp.prediction import predict, write_archive


def test_tiles(inferencer, model, tmp_path):
    [path] = write_images(tmp_path, 1)
    html = page.tiles(predict(inferencer, path, TASKS, 1), model.tasks, model.dataset_meta)
    assert html.count("<figure") == 5 and html.count("<img") == 4
    assert "background" in html and "aspect-ratio: 56 / 40" in html
    assert "http" not in html
    html = page.tiles(predict(inferencer, path, ["normals"], 1), model.tasks, model.dataset_meta)
    assert html.count("<img") == 1


def test_names_are_shown_as_text(inferencer, model, tmp_path):
    path = tmp_path / "<b>&.png"
    write_images(tmp_path, 1)[0].rename(path)
    html = page.tiles(predict(inferencer, path, ["semseg"], 1), model.tasks, {})
    assert "<b>" not in html and "&lt;b&gt;&amp;" in html
    assert "<script>" not in page.error("<script>")


def test_the_archive(inferencer, model, tmp_path):
    [path] = write_images(tmp_path, 1)
    found = predict(inferencer, path, ["semseg", "normals"], 1)
    zipped = write_archive(found, inferencer, tmp_path / "zip", 0)
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
def test_what_is_no_image(inferencer, tmp_path, content):
    (tmp_path / "notes.png").write_bytes(content)
    with pytest.raises(InputError, match=r"^notes\.png") as told:
        predict(inferencer, tmp_path / "notes.png", TASKS, 1)
    assert str(tmp_path) not in str(told.value)


def test_what_is_too_large_or_missing(inferencer, tmp_path):
    Image.new("RGB", (300, 200)).save(tmp_path / "large.png")
    with pytest.raises(InputError, match=r"large\.png has 0\.1 megapixels; at most 0\.05"):
        predict(inferencer, tmp_path / "large.png", TASKS, 0.05)
    with pytest.raises(InputError, match="upload it again"):
        predict(inferencer, tmp_path / "gone.png", TASKS, 1)
    with pytest.raises(InputError, match="one task"):
        predict(inferencer, tmp_path / "large.png", [], 1)


def test_a_truncated_image(inferencer, tmp_path):
    [path] = write_images(tmp_path, 1)
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(InputError, match="truncated"):
        predict(inferencer, path, TASKS, 1)


def test_photographs_are_upright_as_the_browser_shows_them(inferencer, model, tmp_path):
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
    first, again = (render_examples(tmp_path / name, 2, 32) for name in "ab")
    contents = [path.read_bytes() for path in (*first, *again)]
    assert contents[:2] == contents[2:] and contents[0] != contents[1]


def test_gradio_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "gradio", None)
    with pytest.raises(InputError, match=r"pip install 'vmt_mm\[webapp\]'"):
        import_gradio()


def test_the_embedded_model_is_missing(monkeypatch, capsys, tmp_path):
    monkeypatch.setitem(sys.modules, "gradio", sys)  # is not used
    monkeypatch.setattr(inference, "EMBEDDED_ADAPTER", str(tmp_path / "none.safetensors"))
    code, printed = run_here(monkeypatch, capsys, "demo/webapp.py")
    assert code == 1 and "none.safetensors" in printed and "make demo" in printed
