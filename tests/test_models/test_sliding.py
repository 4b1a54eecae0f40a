"""Sliding windows: a naive loop, small images, padded batches, wrong settings."""

import pytest
import torch
import torch.nn.functional as F

from vmt_mm.errors import InputError
from vmt_mm.models.sliding import Window, parse_test_cfg
from vmt_mm.registry import MODELS
from vmt_mm.structures import MultiTaskDataSample

TASKS = dict(
    semseg=dict(type="Segmentation", num_classes=3),
    normals=dict(type="Normals"),
)
SLIDE = dict(mode="slide", crop_size=(32, 40), stride=(20, 24))


@pytest.fixture
def build():
    def make(**test_cfg):
        model = MODELS.build(
            dict(
                type="MultiTaskSegmentor",
                tasks=TASKS,
                backbone=dict(type="MultiTaskSwin", arch="nano", pretrained="vmt_mm://swin_nano"),
                head=dict(type="MLPHead", channels=8),
                test_cfg=test_cfg,
            )
        )
        torch.manual_seed(0)
        for parameter in model.heads.parameters():
            torch.nn.init.normal_(parameter, std=0.2)
        model.backbone.init_weights()
        return model.eval()

    return make


def logits_of(model, images, samples=None):
    samples = samples or [MultiTaskDataSample() for _ in images]
    found = {name: [None] * len(images) for name in TASKS}
    for name, index, logits in model.final_logits(images, samples):
        found[name][index] = logits[0]
    return found


def naive(model, image, crop, stride):
    """Naive sliding windows, in mmseg's order."""
    height, width = image.shape[1:]
    rows = max(height - crop[0] + stride[0] - 1, 0) // stride[0] + 1
    columns = max(width - crop[1] + stride[1] - 1, 0) // stride[1] + 1
    sums, count = {}, torch.zeros(height, width)
    for row in range(rows):
        for column in range(columns):
            bottom = min(row * stride[0] + crop[0], height)
            right = min(column * stride[1] + crop[1], width)
            top, left = max(bottom - crop[0], 0), max(right - crop[1], 0)
            part = image[None, :, top:bottom, left:right]
            with torch.no_grad():
                outputs = model(part, mode="tensor")
            for name, logits in outputs.items():
                logits = F.interpolate(logits, size=part.shape[2:], mode="bilinear")[0]
                total = sums.setdefault(name, torch.zeros(len(logits), height, width))
                total[:, top:bottom, left:right] += logits
            count[top:bottom, left:right] += 1
    return {name: total / count for name, total in sums.items()}


@pytest.mark.parametrize("size", [(70, 90), (72, 88), (32, 40), (33, 100), (20, 25), (20, 90)])
@pytest.mark.parametrize("crop_batch", [None, 1, 3])
def test_it_is_the_naive_loop(build, size, crop_batch):
    model, images = build(**SLIDE, crop_batch=crop_batch), torch.randn(2, 3, *size)
    result = logits_of(model, images)
    for index, image in enumerate(images):
        for name, expected in naive(model, image, (32, 40), (20, 24)).items():
            torch.testing.assert_close(result[name][index], expected, rtol=1e-4, atol=1e-4)


def test_full_images_are_the_default_and_differ(build):
    images = torch.randn(1, 3, 70, 90)
    full, slid = (logits_of(build(**cfg), images) for cfg in ({}, SLIDE))
    assert torch.equal(full["semseg"][0], logits_of(build(mode="whole"), images)["semseg"][0])
    assert not torch.allclose(full["semseg"][0], slid["semseg"][0], atol=1e-2)


def test_padding_of_a_batch_changes_nothing(build):
    model, images = build(**SLIDE), torch.randn(3, 3, 64, 96)
    shapes = [(64, 96), (50, 96), (64, 96)]
    samples = [MultiTaskDataSample(metainfo=dict(img_shape=s, ori_shape=s)) for s in shapes]
    images[1, :, 50:] = 1e3
    result = logits_of(model, images, samples)
    alone = logits_of(model, images[1:2, :, :50])
    assert result["normals"][1].shape == (3, 50, 96)
    torch.testing.assert_close(result["normals"][1], alone["normals"][0], rtol=1e-4, atol=1e-4)


def test_crop_batch_limits_the_crops_per_pass(build):
    model, seen = build(**SLIDE, crop_batch=4), []
    model.backbone.register_forward_pre_hook(lambda _, args: seen.append(len(args[0])))
    model(torch.randn(2, 3, 70, 90), mode="predict")
    assert max(seen) == 4
    assert sum(seen) == 2 * len(Window((32, 40), (20, 24)).boxes((70, 90)))


@pytest.mark.parametrize(
    ("cfg", "message"),
    [
        (dict(mode="slides"), "mode must be one of .*'slides'"),
        (dict(mode="slide"), "crop_size must be two positive integers"),
        (dict(SLIDE, crop_size=32), "crop_size must be two positive"),
        (dict(SLIDE, stride=(0, 8)), r"stride must be two positive .* \(0, 8\)"),
        (dict(SLIDE, stride=(33, 8)), "must not exceed crop_size"),
        (dict(SLIDE, crop_batch=0), "crop_batch must be a positive"),
        (dict(crop_size=(8, 8)), "crop_size needs mode='slide'"),
        (dict(SLIDE, strides=(8, 8)), "unknown key 'strides'"),
    ],
)
def test_wrong_settings_are_one_message(cfg, message):
    with pytest.raises(InputError, match=message):
        parse_test_cfg(cfg)
