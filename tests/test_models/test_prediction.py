"""A prediction depends on the image alone, not on its batch, and runs in eval mode."""

import numpy as np
import pytest
import torch
from mmengine.dataset import pseudo_collate

from vmt_mm.apis.tta import make_pipeline
from vmt_mm.errors import InputError
from vmt_mm.models.test_time_aug import MultiTaskTTAModel
from vmt_mm.registry import MODELS, TRANSFORMS
from vmt_mm.structures import MultiTaskDataSample

TASKS = dict(semseg=dict(type="Segmentation", num_classes=4), normals=dict(type="Normals"))
SIZES = [(40, 64), (64, 30), (64, 64), (33, 64), (40, 64), (20, 90), (64, 48), (100, 60)]
SWIN = dict(type="MultiTaskSwin", arch="nano", allow_random_backbone=True)
VIT = dict(
    type="MultiTaskViT",
    arch=dict(embed_dims=20, num_layers=4, num_heads=2, feedforward_channels=40),
    img_size=32,
    patch_size=8,
    allow_random_backbone=True,
)
SLIDE = dict(mode="slide", crop_size=(32, 40), stride=(20, 24))
KEEP_RATIO = [
    dict(type="Resize", scale=(64, 64), keep_ratio=True),
    dict(type="LoadLabels"),
    dict(type="PackMultiTaskInputs"),
]
PADDED = [
    dict(type="Resize", scale=(64, 64), keep_ratio=True),
    dict(type="Pad", size_divisor=16),
    dict(type="LoadLabels"),
    dict(type="PackMultiTaskInputs"),
]


def build(backbone, preprocessor=None, **test_cfg):
    torch.manual_seed(0)
    preprocessor = preprocessor or dict(type="MultiTaskDataPreprocessor")
    model = MODELS.build(
        dict(
            type="MultiTaskSegmentor",
            tasks=TASKS,
            data_preprocessor=dict(preprocessor, mean=[120.0] * 3, std=[60.0] * 3),
            backbone=dict(backbone, peft=dict(type="LoRA", dropout=0.5)),
            head=dict(type="MLPHead", channels=8, dropout_ratio=0.5),
            test_cfg=test_cfg or None,
        )
    )
    model.init_weights()
    for parameter in model.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.3)
    return model.eval()


def read(steps):
    """Images of mixed sizes after the pipeline."""
    rng, items = np.random.default_rng(0), []
    for number, size in enumerate(SIZES):
        image = rng.integers(0, 255, (*size, 3), dtype=np.uint8)
        results = dict(img=image, img_shape=size, ori_shape=size, label_paths={}, sample_id=number)
        for step in steps:
            results = TRANSFORMS.build(step)(results)
        items.append(results)
    return items


def predict(model, items, batch):
    """The predicted samples, in input order."""
    batches = [items[first : first + batch] for first in range(0, len(items), batch)]
    samples = [s for part in batches for s in model.test_step(pseudo_collate(part))]
    assert [int(sample.sample_id) for sample in samples] == list(range(len(items)))
    return samples


def assert_same(samples, others):
    for sample, other, size in zip(samples, others, SIZES, strict=True):
        normals = [s.prediction("normals") for s in (sample, other)]
        assert normals[0].shape == (3, *size)
        torch.testing.assert_close(*normals, rtol=1e-3, atol=1e-3)
        classes = [s.prediction("semseg") for s in (sample, other)]
        assert (classes[0] != classes[1]).float().mean() < 0.002


@pytest.mark.parametrize("backbone", [SWIN, VIT], ids=["swin", "vit"])
@pytest.mark.parametrize("test_cfg", [{}, SLIDE], ids=["full", "slide"])
@pytest.mark.parametrize("steps", [KEEP_RATIO, PADDED], ids=["keep_ratio", "padded"])
def test_the_batch_changes_nothing(backbone, test_cfg, steps):
    model = build(backbone, **test_cfg)
    alone = predict(model, read(steps), 1)
    for batch in (2, 8):
        assert_same(predict(model, read(steps), batch), alone)


@pytest.mark.parametrize("kind", ["MultiTaskDataPreprocessor", "ImgDataPreprocessor"])
def test_padding_to_a_multiple_is_the_image_s_own(kind):
    model = build(SWIN, dict(type=kind, pad_size_divisor=24, pad_value=255))
    alone = predict(model, read(KEEP_RATIO), 1)
    for batch in (2, 8):
        assert_same(predict(model, read(KEEP_RATIO), batch), alone)
    without = predict(build(SWIN, dict(type=kind)), read(KEEP_RATIO), 1)
    assert not torch.allclose(without[0].prediction("normals"), alone[0].prediction("normals"))


def test_the_batch_changes_nothing_with_augmentation():
    model = MultiTaskTTAModel(build(VIT))
    alone = predict(model, read(make_pipeline(KEEP_RATIO)), 1)
    for batch in (2, 8):
        assert_same(predict(model, read(make_pipeline(KEEP_RATIO)), batch), alone)


def test_images_of_one_size_are_one_pass_of_the_batch_itself():
    model, seen = build(SWIN), []
    model.backbone.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    images = torch.randn(3, 3, 32, 32)
    samples = [MultiTaskDataSample(metainfo=dict(img_shape=(32, 32))) for _ in images]
    for given in (None, samples):
        model(images, given, mode="predict")
    assert all(batch is images for batch in seen)
    assert len(seen) == 2


@pytest.mark.parametrize("augmented", [False, True], ids=["plain", "tta"])
def test_a_model_in_training_mode_predicts_in_eval_mode(augmented):
    steps = make_pipeline(KEEP_RATIO) if augmented else KEEP_RATIO
    model = MultiTaskTTAModel(build(SWIN)) if augmented else build(SWIN, **SLIDE)
    expected = predict(model, read(steps), 8)
    model.train()
    some = list(model.modules())[-3]
    some.eval()
    modes = [part.training for part in model.modules()]
    state = {key: value.clone() for key, value in model.state_dict().items()}
    samples = predict(model, read(steps), 8)
    assert_same(samples, expected)
    assert [part.training for part in model.modules()] == modes
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    assert not samples[0].prediction("normals").requires_grad


def test_the_mode_comes_back_after_an_error():
    model = build(SWIN).train()
    with pytest.raises(InputError, match="5 channel"):
        model(torch.randn(1, 5, 32, 32), mode="predict")
    assert model.training
    assert model.heads["semseg"].training


def test_no_task_at_all_is_refused():
    with pytest.raises(InputError, match="one or more distinct names"):
        build(SWIN)(torch.randn(1, 3, 32, 32), mode="predict", tasks=[])


def test_the_default_dtype_changes_nothing():
    for test_cfg in ({}, SLIDE):
        model = build(SWIN, **test_cfg)
        expected = predict(model, read(KEEP_RATIO), 8)
        torch.set_default_dtype(torch.float64)
        try:
            samples = predict(model, read(KEEP_RATIO), 8)
        finally:
            torch.set_default_dtype(torch.float32)
        assert_same(samples, expected)
        assert samples[0].prediction("normals").dtype == torch.float32
