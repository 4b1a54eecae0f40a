"""Test-time augmentation: averages over versions of an image, and flips."""

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.dataset import pseudo_collate

from vmt_mm.apis import apply_tta
from vmt_mm.apis.tta import make_pipeline
from vmt_mm.errors import InputError
from vmt_mm.registry import MODELS, TRANSFORMS
from vmt_mm.tasks import build_tasks
from vmt_mm.tasks.labels import LabelSpec

TASKS = dict(
    semseg=dict(type="Segmentation", num_classes=4),
    saliency=dict(type="Saliency"),
    normals=dict(type="Normals"),
    depth=dict(type="Depth"),
)
STEPS = [
    dict(type="Resize", scale=(64, 48)),
    dict(type="LoadLabels"),
    dict(type="PackMultiTaskInputs"),
]


def model_of(tasks=TASKS):
    torch.manual_seed(0)
    model = dict(
        type="MultiTaskSegmentor",
        tasks=tasks,
        data_preprocessor=dict(
            type="ImgDataPreprocessor", mean=[120.0] * 3, std=[60.0] * 3, bgr_to_rgb=True
        ),
        backbone=dict(type="MultiTaskSwin", arch="nano", pretrained="vmt_mm://swin_nano"),
        head=dict(type="MLPHead", channels=8),
    )
    wrapped = MODELS.build(dict(type="MultiTaskTTAModel", module=model)).eval()
    wrapped.module.backbone.init_weights()
    for parameter in wrapped.module.heads.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.3)
    return wrapped


def predict(model, image, steps):
    results = dict(img=image, img_shape=image.shape[:2], ori_shape=image.shape[:2], label_paths={})
    for step in steps:
        results = TRANSFORMS.build(step)(results)
    (sample,) = model.test_step(pseudo_collate([results]))
    return {name: sample.prediction(name) for name in model.module.tasks}


@pytest.fixture
def image():
    return np.random.default_rng(0).integers(0, 255, (40, 56, 3), dtype=np.uint8)


def test_a_mirrored_image_gives_the_mirrored_prediction(image):
    model, steps = model_of(), make_pipeline(STEPS)
    plain = predict(model, image, steps)
    mirrored = predict(model, np.ascontiguousarray(image[:, ::-1]), steps)
    turned = {name: values.flip(-1) for name, values in mirrored.items()}
    turned["normals"][0] *= -1  # x points right in the image
    assert plain["normals"].shape == (3, 40, 56)
    for name in ("saliency", "normals", "depth"):
        torch.testing.assert_close(plain[name], turned[name], rtol=1e-3, atol=1e-3)
    assert (plain["semseg"] != turned["semseg"]).float().mean() < 0.005
    assert len(plain["semseg"].unique()) > 1
    # predictions of a single version are not mirrored exactly
    one = make_pipeline(STEPS, scales=[1.0])
    one[-1]["transforms"][1].pop()
    alone, other = (predict(model, x, one) for x in (image, image[:, ::-1].copy()))
    assert not torch.allclose(alone["saliency"], other["saliency"].flip(-1), atol=1e-3)


def test_it_is_the_mean_of_each_versions_scores(image):
    model, steps = model_of(), make_pipeline(STEPS, scales=[1.0])
    merged = predict(model, image, steps)
    single = [make_pipeline(STEPS, scales=[1.0]) for _ in range(2)]
    for number, pipeline in enumerate(single):
        pipeline[-1]["transforms"][1] = [pipeline[-1]["transforms"][1][number]]
    first, second = (predict(model, image, pipeline) for pipeline in single)
    mean = (first["saliency"] + second["saliency"]) / 2
    torch.testing.assert_close(merged["saliency"], mean)
    mean = torch.nn.functional.normalize(first["normals"] + second["normals"], dim=0)
    torch.testing.assert_close(merged["normals"], mean, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(merged["normals"].norm(dim=0), torch.ones(40, 56))


def test_classes_that_a_flip_changes_change_places():
    task = build_tasks(dict(parts=dict(type="Segmentation", num_classes=3)))["parts"]

    class LeftAndRight(LabelSpec):
        categorical = True

        def transform_values(self, labels, geometry):
            exchanged = torch.tensor([0, 2, 1], dtype=torch.uint8)[labels.long()]
            return torch.where(geometry.flip, exchanged, labels)

    task.label = LeftAndRight()
    scores = torch.rand(2, 3, 4, 5)
    assert torch.equal(task.flip_scores(scores), scores.flip(-1)[:, [0, 2, 1]])


def test_values_that_a_zoom_changes_are_not_averaged_over_sizes(image):
    model = model_of(dict(depth=dict(type="Depth", zoom_divides=True)))
    with pytest.raises(InputError, match="resizing changes the values of task 'depth'"):
        predict(model, image, make_pipeline(STEPS))
    predict(model, image, make_pipeline(STEPS, scales=[1.0]))


def test_the_configs_own_model_and_pipeline_are_taken():
    cfg = Config(
        dict(
            model=dict(type="MultiTaskSegmentor"),
            test_dataloader=dict(dataset=dict(pipeline=STEPS)),
            tta_model=dict(type="SegTTAModel"),
            tta_pipeline=[dict(type="LoadImageFromFile")],
        )
    )
    apply_tta(cfg)
    assert cfg.model == dict(type="SegTTAModel", module=dict(type="MultiTaskSegmentor"))
    assert cfg.test_dataloader.dataset.pipeline == [dict(type="LoadImageFromFile")]
    with pytest.raises(InputError, match="needs a test pipeline with Resize"):
        make_pipeline(STEPS[1:])
