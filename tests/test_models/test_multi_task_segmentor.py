"""The model: modes, subsets of tasks, partial labels, sizes."""

import pytest
import torch

from vmt_mm.errors import InputError
from vmt_mm.registry import MODELS
from vmt_mm.structures import MultiTaskDataSample
from vmt_mm.tasks import build_tasks

TASKS = dict(
    semseg=dict(type="Segmentation", num_classes=5),
    saliency=dict(type="Saliency", loss_weight=5.0),
    normals=dict(type="Normals", loss_weight=10.0),
    depth=dict(type="Depth"),
)


def build(**options):
    cfg = dict(
        type="MultiTaskSegmentor",
        tasks=TASKS,
        backbone=dict(
            type="MultiTaskSwin",
            arch="nano",
            allow_random_backbone=True,
            peft=dict(type="VMTAdapter"),
        ),
        head=dict(type="MLPHead", channels=8),
    )
    model = MODELS.build({**cfg, **options})
    model.backbone.init_weights()
    return model


def labels(size):
    """A label of each kind, with some invalid pixels."""
    normals = torch.nn.functional.normalize(torch.randn(3, *size), dim=0)
    normals[:, :3] = 0
    semseg = torch.randint(0, 5, (1, *size), dtype=torch.uint8)
    semseg[:, :, :2] = 255
    return dict(
        semseg=semseg,
        saliency=torch.randint(0, 2, (1, *size), dtype=torch.uint8),
        normals=normals,
        depth=torch.rand(1, *size) * 5,
    )


def sample(size, tasks, **meta):
    result = MultiTaskDataSample(metainfo=dict(img_shape=size, ori_shape=size, **meta))
    for name, values in labels(size).items():
        if name in tasks:
            result.set_label(name, values)
    return result


def test_modes_and_shapes():
    model = build().eval()
    images = torch.randn(2, 3, 40, 56)
    logits = model(images, mode="tensor")
    assert {k: v.shape[1] for k, v in logits.items()} == dict(
        semseg=5, saliency=1, normals=3, depth=1
    )
    samples = model(images, [sample((40, 56), TASKS) for _ in range(2)], mode="predict")
    assert samples[0].prediction("semseg").dtype == torch.uint8
    assert all(samples[1].prediction(t).shape[1:] == (40, 56) for t in TASKS)
    with pytest.raises(ValueError, match="mode must be"):
        model(images, mode="train")


def test_loss_is_the_weighted_loss_of_the_labelled_images():
    model = build().eval()
    images = torch.randn(3, 3, 32, 32)
    samples = [sample((32, 32), ["semseg"]), sample((32, 32), TASKS), sample((32, 32), ["normals"])]
    losses = model(images, samples, mode="loss")
    tasks = build_tasks(TASKS)
    for name, rows in dict(semseg=[0, 1], saliency=[1], normals=[1, 2], depth=[1]).items():
        logits = torch.nn.functional.interpolate(
            model(images, mode="tensor")[name], size=(32, 32), mode="bilinear"
        )
        target = torch.stack([samples[i].label(name) for i in rows])
        expected = tasks[name].loss(logits[rows], target) * tasks[name].loss_weight
        torch.testing.assert_close(losses[f"loss_{name}"], expected)


def test_a_batch_without_any_label_of_a_task_reaches_all_parameters():
    model = build().train()
    samples = [sample((32, 32), ["semseg"]) for _ in range(2)]
    losses = model(torch.randn(2, 3, 32, 32), samples, mode="loss")
    assert losses["loss_normals"].item() == 0
    sum(losses.values()).backward()
    without = [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert without == []
    assert all(p.grad is None for p in model.parameters() if not p.requires_grad)


def test_images_of_different_sizes_are_padded_and_cropped():
    model = build(data_preprocessor=dict(type="ImgDataPreprocessor", pad_size_divisor=32)).eval()
    sizes = [(33, 40), (48, 20)]
    data = dict(
        inputs=[torch.randint(0, 255, (3, *s), dtype=torch.uint8) for s in sizes],
        data_samples=[sample(s, TASKS) for s in sizes],
    )
    batch = model.data_preprocessor(data, training=True)
    assert batch["inputs"].shape == (2, 3, 64, 64)
    losses = model(**batch, mode="loss")
    assert all(torch.isfinite(v) for v in losses.values())
    predictions = model(**batch, mode="predict")
    for result, size in zip(predictions, sizes, strict=True):
        assert result.prediction("normals").shape == (3, *size)


def test_predictions_come_at_the_original_size():
    model = build().eval()
    samples = [MultiTaskDataSample(metainfo=dict(img_shape=(32, 32), ori_shape=(50, 61)))]
    (result,) = model(torch.randn(1, 3, 32, 32), samples, mode="predict")
    assert result.prediction("normals").shape == (3, 50, 61)
    torch.testing.assert_close(result.prediction("normals").norm(dim=0), torch.ones(50, 61))


def interpolate(values, size):
    """Naive bilinear interpolation (C, h, w) to (H, W): pixel centres, clamped at the border."""
    for axis, count in ((1, size[0]), (2, size[1])):
        old = values.shape[axis]
        matrix = torch.zeros(count, old, dtype=torch.float64)
        for new in range(count):
            place = min(max((new + 0.5) * old / count - 0.5, 0), old - 1)
            low = int(place)
            matrix[new, low] += 1 - (place - low)
            matrix[new, min(low + 1, old - 1)] += place - low
        values = torch.tensordot(values, matrix, dims=([axis], [1])).movedim(-1, axis)
    return values


def test_predictions_are_those_of_logits_at_the_image_size():
    model, images = build().eval(), torch.randn(1, 3, 32, 48)
    samples = [MultiTaskDataSample(metainfo=dict(img_shape=(32, 40), ori_shape=(101, 127)))]
    with torch.no_grad():
        raw = model(images[..., :40], mode="tensor")
        (result,) = model(images, samples, mode="predict")
    assert raw["semseg"].shape[2:] == (8, 10)
    logits = {
        k: interpolate(interpolate(x[0].double(), (32, 40)), (101, 127)) for k, x in raw.items()
    }
    torch.testing.assert_close(
        result.prediction("saliency").double(), logits["saliency"].sigmoid(), rtol=0, atol=1e-5
    )
    torch.testing.assert_close(
        result.prediction("depth").double(), logits["depth"].clamp(min=0), rtol=1e-5, atol=1e-5
    )
    first, second = logits["semseg"].topk(2, dim=0)[0]
    clear = first - second > 1e-4
    classes = logits["semseg"].argmax(dim=0)
    assert clear.float().mean() > 0.99
    assert torch.equal(result.prediction("semseg")[0][clear].long(), classes[clear])
    # classes that are enlarged after the argmax differ: they have steps
    small = model.tasks["semseg"].to_prediction(raw["semseg"]).float()
    steps = torch.nn.functional.interpolate(small, (101, 127))[0, 0].long()
    assert (steps != classes).float().mean() > 0.01


def test_native_labels_in_training_are_refused():
    sample_ = MultiTaskDataSample(metainfo=dict(img_shape=(32, 32), ori_shape=(50, 50)))
    sample_.set_label("semseg", torch.zeros(1, 50, 50, dtype=torch.uint8))
    with pytest.raises(InputError, match="put LoadLabels before Resize"):
        build()(torch.randn(1, 3, 32, 32), [sample_], mode="loss")


def test_init_cfg_of_heads_is_followed():
    model = build(
        head=dict(type="MLPHead", channels=8, init_cfg=dict(type="Constant", layer="Conv2d", val=7))
    )
    model.init_weights()
    assert (model.heads["depth"].predict.weight == 7).all()


def test_heads_of_other_tasks_are_not_run():
    model = build(test_cfg=dict(tasks=["depth"])).eval()
    for name in ("semseg", "saliency", "normals"):
        model.heads[name].forward = None
    (result,) = model(torch.randn(1, 3, 20, 24), mode="predict")
    assert set(result.keys()) == {"pred_depth"}
    assert list(model(torch.randn(1, 3, 20, 24), mode="tensor", tasks=["depth"])) == ["depth"]


def test_head_per_task():
    model = build(task_heads=dict(saliency=dict(type="HRNetHead"))).eval()
    kinds = {name: type(head).__name__ for name, head in model.heads.items()}
    assert kinds == dict(semseg="MLPHead", saliency="HRNetHead", normals="MLPHead", depth="MLPHead")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(tasks={}), "hold at least one"),
        (dict(tasks=dict(a=dict(type="Flow"))), "task 'a': unknown type 'Flow'; known: Depth"),
        (dict(task_heads=dict(edge=dict(type="HRNetHead"))), r"unknown task\(s\) \['edge'\]"),
        (dict(head=dict(type="NoHead")), "head: unknown type 'NoHead'"),
        (dict(test_cfg=dict(tasks=["edge"])), r"unknown task\(s\) \['edge'\]"),
        (
            dict(backbone=dict(type="MultiTaskSwin", arch="nano", tasks=["semseg"])),
            r"model.backbone.tasks must equal .* got \['semseg'\]",
        ),
    ],
)
def test_wrong_settings_are_one_message(options, message):
    with pytest.raises(InputError, match=message):
        build(**options)


def test_padding_of_a_batch_has_no_label():
    model, size = build().eval(), (21, 27)
    image, padded = sample(size, TASKS), torch.randn(1, 3, 32, 32)
    losses, logits = model(padded, [image], mode="loss"), model(padded, mode="tensor")
    for name, task in build_tasks(TASKS).items():
        own = torch.nn.functional.interpolate(logits[name], size=(32, 32), mode="bilinear")
        expected = task.loss(own[:, :, :21, :27], image.label(name)[None]) * task.loss_weight
        torch.testing.assert_close(losses[f"loss_{name}"], expected)


@pytest.mark.parametrize("eager", [True, False])
def test_terms_of_several_losses_are_reported_and_enter_the_sum_once(eager):
    semseg = [dict(type="CrossEntropyLoss", name="ce"), dict(type="DiceLoss", loss_weight=2.0)]
    tasks = {**TASKS, "semseg": dict(TASKS["semseg"], loss=semseg, loss_weight=3.0)}
    model = build(tasks=tasks, eager_backward=eager).eval()
    images = torch.randn(2, 3, 32, 32)
    samples = [sample((32, 32), ["saliency"]), sample((32, 32), TASKS)]
    losses = model(images, samples, mode="loss")
    terms = {key: value for key, value in losses.items() if not key.startswith("loss_")}
    assert list(terms) == ["semseg.ce", "semseg.dice"]
    assert not any(value.requires_grad for value in terms.values())
    logits = torch.nn.functional.interpolate(
        model(images, mode="tensor")["semseg"], size=(32, 32), mode="bilinear"
    )
    target = samples[1].label("semseg")[None]
    for (key, value), cfg in zip(terms.items(), semseg, strict=True):
        (task,) = build_tasks(dict(semseg=dict(TASKS["semseg"], loss=cfg))).values()
        torch.testing.assert_close(value, 3 * task.loss(logits[1:], target), msg=key)
    torch.testing.assert_close(losses["loss_semseg"], sum(terms.values()))
    total, logged = model.parse_losses(losses)
    torch.testing.assert_close(total, sum(v for k, v in losses.items() if k not in terms))
    assert terms.keys() <= logged.keys()
    total.backward()
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)
    # also without a label
    losses = model(images, samples[:1] * 2, mode="loss")
    assert losses["loss_semseg"].requires_grad
    assert losses["semseg.ce"] == losses["semseg.dice"] == losses["loss_semseg"] == 0
    # a weighting of the tasks weighs their sum
    model = build(tasks=tasks, eager_backward=eager, weighting=dict(type="Uncertainty")).train()
    total, logged = model.parse_losses(model(images, samples, mode="loss"))
    assert total.requires_grad
    torch.testing.assert_close(logged["loss_semseg"], logged["semseg.ce"] + logged["semseg.dice"])
    with pytest.raises(InputError, match="gloss: a task with several losses"):
        build_tasks(dict(gloss=tasks["semseg"]))
