"""``init_model`` and ``inference_model`` on single images."""

import shutil

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config
from PIL import Image
from untrained import CONFIG_FILE, SMALL, TASKS, equal, write_images

from vmt_mm.apis import MultiTaskInferencer, inference_model, init_model, load_config
from vmt_mm.apis.pipeline import InferencePipeline
from vmt_mm.errors import CorruptFileError, InputError
from vmt_mm.loading.adapters import export_adapter
from vmt_mm.models.backbones.pretrained import locate
from vmt_mm.visualization.video import VideoReader

#: The adapter that the package includes.
ADAPTER = "vmt_mm://vmt_swin-nano_shapes"


def test_files_arrays_and_lists(model, tmp_path):
    paths = write_images(tmp_path, 3)
    samples = inference_model(model, [paths[0], cv2.imread(str(paths[1])), str(paths[2])])
    for path, sample in zip(paths, samples, strict=True):
        size = cv2.imread(str(path)).shape[:2]
        for task, channels in zip(TASKS, (1, 1, 1, 3), strict=True):
            assert sample.prediction(task).shape == (channels, *size)
        assert equal(sample, inference_model(model, path))
    assert not equal(samples[0], inference_model(model, np.zeros((40, 56, 3), np.uint8)))
    assert samples[0].sample_id == "image_000" and samples[0].img_path == str(paths[0])
    assert inference_model(model, []) == []


def test_heads_of_other_tasks_are_not_run(model, tmp_path):
    run = []
    hooks = [
        head.register_forward_hook(lambda *_, name=name: run.append(name))
        for name, head in model.heads.items()
    ]
    sample = inference_model(model, write_images(tmp_path, 1)[0], tasks=["normals"])
    for hook in hooks:
        hook.remove()
    assert run == ["normals"] and list(sample.keys()) == ["pred_normals"]


def test_a_single_task_by_its_name(model):
    image = np.zeros((20, 30, 3), np.uint8)
    named, listed = (inference_model(model, image, tasks) for tasks in ("normals", ["normals"]))
    assert equal(named, listed, ["normals"])
    assert named.prediction("semseg") is None


def test_a_batch_is_not_padded(model):
    """A prediction does not depend on the sizes of other images in the batch."""
    keep_ratio = init_model(CONFIG_FILE, None, "cpu", SMALL)
    keep_ratio.load_state_dict(model.state_dict())
    for step in keep_ratio.cfg.test_dataloader.dataset.pipeline:
        if step["type"] == "Resize":
            step["keep_ratio"] = True
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 255, (h, w, 3), dtype=np.uint8) for h, w in ((40, 80), (80, 40))]
    together = inference_model(keep_ratio, images)
    alone = [inference_model(keep_ratio, image) for image in images]
    assert all(equal(a, b) for a, b in zip(together, alone, strict=True))
    assert not equal(alone[0], inference_model(model, images[0]))  # the config's resize is used


def test_a_config_object_and_its_metainfo(model, checkpoint):
    again = init_model(load_config(CONFIG_FILE, SMALL, training=False), checkpoint, "cpu")
    image = np.full((20, 30, 3), 90, np.uint8)
    assert equal(inference_model(again, image), inference_model(model, image))
    assert again.dataset_meta["semseg"]["classes"][1] == "box"
    assert not again.training and again.cfg.model.head.channels == 16


def test_names_in_the_checkpoint_win(checkpoint, tmp_path):
    content = torch.load(checkpoint, weights_only=True)
    names = dict(semseg=dict(classes=[f"own {i}" for i in range(8)]))
    torch.save(dict(content, meta=dict(dataset_meta=names)), tmp_path / "named.pth")
    model = init_model(CONFIG_FILE, tmp_path / "named.pth", "cpu", SMALL)
    assert model.dataset_meta["semseg"]["classes"][1] == "own 1"
    assert "classes" in model.dataset_meta["human_parts"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("missing.py",), "missing.py: no such config"),
        ((Config(dict(a=1)),), "no attribute 'model'"),
        ((CONFIG_FILE, "missing.pth"), "missing.pth: no such checkpoint"),
        ((CONFIG_FILE, None, "cpuu"), "'cpuu' cannot be used"),
        (("missing.safetensors",), "missing.safetensors: no such adapter"),
        (("a.safetensors", "b.pth"), "needs no checkpoint"),
        (("a.safetensors", None, "cpu", dict(lr=1)), "no option except `pretrained`"),
        (("vmt_mm://none",), r"weights/none\.safetensors: no such adapter"),
        ((ADAPTER, None, "cpu", dict(image_size=64)), r"must be \(width, height\) .* got 64"),
        ((ADAPTER, None, "cpu", dict(image_size=(64, 0))), "`image_size` must be"),
    ],
)
def test_wrong_arguments(arguments, message):
    with pytest.raises(InputError, match=message):
        init_model(*arguments)


def test_the_size_of_a_shipped_adapters_input():
    image = np.random.default_rng(0).integers(0, 256, (30, 40, 3), np.uint8)
    usual, larger = (
        init_model(ADAPTER, device="cpu", cfg_options=options)
        for options in ({}, dict(image_size=(168, 140)))
    )
    assert InferencePipeline(usual.cfg)(image)["inputs"].shape[1:] == (112, 112)
    assert InferencePipeline(larger.cfg)(image)["inputs"].shape[1:] == (140, 168)
    samples = [inference_model(model, image) for model in (usual, larger)]
    assert not equal(*samples)
    assert samples[1].prediction("normals").shape == (3, 30, 40)


def test_a_checkpoint_of_another_model(checkpoint):
    with pytest.raises(InputError, match="does not fit the config"):
        init_model(CONFIG_FILE, checkpoint, "cpu")


def test_wrong_images(model, tmp_path):
    text = tmp_path / "text.png"
    text.write_text("this is text")
    with pytest.raises(CorruptFileError, match=str(text)):
        inference_model(model, text)
    for wrong, message in (
        (np.zeros((4, 4)), "the array: has float64 values.*value_range"),
        (np.zeros((4, 4, 3), np.uint16), "the array: has uint16 values.*value_range"),
        (np.zeros((4, 4, 4), np.uint8), "the array: has transparent pixels"),
        (np.zeros((4, 4, 5), np.uint8), "the array: has 5 channels.*color_type='unchanged'"),
        (np.zeros((0, 4, 3), np.uint8), r"the array: expected an image.*\(0, 4, 3\)"),
        (3, "BGR uint8, got int"),
    ):
        with pytest.raises(InputError, match=message):
            inference_model(model, wrong)
    with pytest.raises(InputError, match="unknown task"):
        inference_model(model, np.zeros((4, 4, 3), np.uint8), tasks=["pose"])


def test_grey_and_opaque_arrays_are_read_as_their_files(model, tmp_path):
    grey = np.random.default_rng(0).integers(0, 255, (20, 30), dtype=np.uint8)
    expected = inference_model(model, np.dstack([grey] * 3))
    cv2.imwrite(str(tmp_path / "grey.png"), grey)
    opaque = np.dstack([grey, grey, grey, np.full_like(grey, 255)])
    for image in (grey, grey[..., None], opaque, tmp_path / "grey.png"):
        assert equal(inference_model(model, image), expected)


def test_deep_images_by_the_config(checkpoint, tmp_path):
    deep = np.linspace(7000, 9000, 600).reshape(20, 30).astype(np.uint16)
    cv2.imwrite(str(tmp_path / "deep.png"), deep)
    options = SMALL | {"test_dataloader.dataset.pipeline.0.value_range": (7000, 9000)}
    model = init_model(CONFIG_FILE, checkpoint, "cpu", options)
    plain = init_model(CONFIG_FILE, checkpoint, "cpu", SMALL)
    samples = [inference_model(model, image) for image in (deep, tmp_path / "deep.png")]
    assert equal(*samples)
    assert samples[0].prediction("semseg").shape[1:] == (20, 30)
    with pytest.raises(CorruptFileError, match=r"deep\.png: has uint16 values in \[7000, 9000\]"):
        inference_model(plain, tmp_path / "deep.png")
    inferencer = MultiTaskInferencer(model, show_progress=False)
    for inputs in (deep, tmp_path / "deep.png"):
        [sample] = inferencer(inputs, out_dir=tmp_path / "out", panels=True)
        assert equal(sample, samples[0])


def test_frames_of_a_video_are_read_by_the_config(checkpoint, tmp_path):
    writer = cv2.VideoWriter(str(tmp_path / "a.avi"), cv2.VideoWriter_fourcc(*"MJPG"), 5, (32, 24))
    ramp = np.linspace(20, 90, 32).astype(np.uint8)
    for shift in (0, 9):
        writer.write(np.dstack([np.tile(np.roll(ramp, shift), (24, 1))] * 3))
    writer.release()
    options = SMALL | {"test_dataloader.dataset.pipeline.0.value_range": (0, 100)}
    model = init_model(CONFIG_FILE, checkpoint, "cpu", options)
    with VideoReader(tmp_path / "a.avi") as frames:
        expected = inference_model(model, list(frames))
    found = MultiTaskInferencer(model, show_progress=False)(tmp_path / "a.avi")
    assert [equal(*pair) for pair in zip(found, expected, strict=True)] == [True, True]


def test_orientations_are_left_to_the_reader(model, tmp_path, monkeypatch):
    said = []
    monkeypatch.setattr("vmt_mm.apis.pipeline.print_log", lambda text, *_: said.append(text))
    image = np.random.default_rng(0).integers(0, 255, (20, 30, 3), dtype=np.uint8)
    exif = Image.Exif()
    exif[0x112] = 6
    Image.fromarray(image).save(tmp_path / "a.png", exif=exif)
    stored, turned = image[..., ::-1], np.rot90(image, -1)[..., ::-1]
    assert equal(inference_model(model, tmp_path / "a.png"), inference_model(model, stored))
    assert len(said) == 1 and "a.png: viewers rotate this image" in said[0]
    inferencer = MultiTaskInferencer(model, show_progress=False, turn_by_exif=True)
    [sample] = inferencer(tmp_path / "a.png")
    assert sample.prediction("semseg").shape[1:] == (30, 20)
    assert equal(sample, inference_model(model, np.ascontiguousarray(turned)))
    assert len(said) == 1


def test_a_config_without_a_pipeline(model, checkpoint):
    cfg = load_config(CONFIG_FILE, SMALL, training=False)
    cfg.pop("test_dataloader"), cfg.pop("test_pipeline")
    other = init_model(cfg, checkpoint, "cpu")
    with pytest.raises(InputError, match="`test_pipeline` has no LoadImageFromFile"):
        inference_model(other, np.zeros((4, 4, 3), np.uint8))


def test_only_the_first_test_pipeline_is_examined():
    datasets = [dict(pipeline=[dict(type=t)]) for t in ("PackMultiTaskInputs", "LoadImageFromFile")]
    cfg = Config(dict(test_dataloader=dict(dataset=dict(datasets=datasets))))
    with pytest.raises(InputError, match="first pipeline in test_dataloader has no LoadImage"):
        InferencePipeline(cfg)


def test_an_adapter_file(model, checkpoint, tmp_path):
    cfg = load_config(CONFIG_FILE, SMALL, training=False)
    path = tmp_path / "small.safetensors"
    export_adapter(cfg, checkpoint, path)
    image = np.random.default_rng(0).integers(0, 255, (40, 50, 3), dtype=np.uint8)
    encoder = shutil.copy(locate("vmt_mm://swin_nano"), tmp_path / "encoder.safetensors")
    for options in (None, dict(pretrained=str(encoder))):
        adapted = init_model(path, None, "cpu", options)
        if options:
            assert adapted.backbone.pretrained == str(encoder)
        assert equal(inference_model(adapted, image), inference_model(model, image))
        assert adapted.dataset_meta["semseg"]["classes"][1] == "box"
