"""Load a model and predict single images."""

import shutil

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config
from untrained import CONFIG_FILE, SMALL, TASKS, equal, write_images

from vmt_mm.apis import inference_model, init_model, load_config
from vmt_mm.apis.adapters import export_adapter
from vmt_mm.errors import DamagedFileError, InputError
from vmt_mm.models.backbones.pretrained import locate


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


def test_heads_that_are_not_asked_for_are_not_run(model, tmp_path):
    run = []
    hooks = [
        head.register_forward_hook(lambda *_, name=name: run.append(name))
        for name, head in model.heads.items()
    ]
    sample = inference_model(model, write_images(tmp_path, 1)[0], tasks=["normals"])
    for hook in hooks:
        hook.remove()
    assert run == ["normals"] and list(sample.keys()) == ["pred_normals"]


def test_a_batch_is_not_padded(model):
    """An image's prediction does not depend on its neighbours' sizes."""
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
        ((Config(dict(a=1)),), "no `model`"),
        ((CONFIG_FILE, "missing.pth"), "missing.pth: no such checkpoint"),
        ((CONFIG_FILE, None, "cpuu"), "'cpuu' cannot be used"),
        (("missing.safetensors",), "missing.safetensors: no such adapter"),
        (("a.safetensors", "b.pth"), "takes no checkpoint"),
        (("a.safetensors", None, "cpu", dict(lr=1)), "only `pretrained`"),
    ],
)
def test_wrong_arguments(arguments, message):
    with pytest.raises(InputError, match=message):
        init_model(*arguments)


def test_a_checkpoint_of_another_model(checkpoint):
    with pytest.raises(InputError, match="does not fit the config"):
        init_model(CONFIG_FILE, checkpoint, "cpu")


def test_wrong_images(model, tmp_path):
    text = tmp_path / "text.png"
    text.write_text("this is text")
    with pytest.raises(DamagedFileError, match=str(text)):
        inference_model(model, text)
    for wrong in (np.zeros((4, 4)), np.zeros((4, 4, 3)), np.zeros((0, 4, 3), np.uint8), 3):
        with pytest.raises(InputError, match="BGR uint8"):
            inference_model(model, wrong)
    with pytest.raises(InputError, match="unknown task"):
        inference_model(model, np.zeros((4, 4, 3), np.uint8), tasks=["pose"])


def test_a_config_without_a_pipeline(model, checkpoint):
    cfg = load_config(CONFIG_FILE, SMALL, training=False)
    cfg.pop("test_dataloader"), cfg.pop("test_pipeline")
    other = init_model(cfg, checkpoint, "cpu")
    with pytest.raises(InputError, match="no test pipeline"):
        inference_model(other, np.zeros((4, 4, 3), np.uint8))


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
