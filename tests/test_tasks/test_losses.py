"""Losses and predictions equal float64 loops that follow the definitions literally."""

import math

import numpy as np
import pytest
import torch

from vmt_mm.errors import InputError
from vmt_mm.tasks import Depth, Edge, Normals, Saliency, Segmentation, build_tasks

N, H, W = 3, 4, 5


def _random(shape, seed):
    return np.random.default_rng(seed).normal(scale=2.0, size=shape)


def _pixels(shape=(N, H, W)):
    return np.ndindex(*shape)


def _loss(task, logits, target):
    result = task.loss(torch.tensor(logits, dtype=torch.float32), torch.as_tensor(target))
    assert result.ndim == 0
    return float(result)


def _segmentation_case():
    rng = np.random.default_rng(1)
    target = rng.integers(0, 6, (N, 1, H, W)).astype(np.uint8)
    target[rng.random(target.shape) < 0.3] = 255
    return Segmentation("semseg", num_classes=6), _random((N, 6, H, W), 2), target


def _binary_case(task):
    rng = np.random.default_rng(3)
    target = (rng.random((N, 1, H, W)) < 0.3).astype(np.uint8)
    target[rng.random(target.shape) < 0.25] = 255
    return task, _random((N, 1, H, W), 4), target


def _normals_case():
    rng = np.random.default_rng(5)
    target = rng.normal(size=(N, 3, H, W))
    target /= np.sqrt((target**2).sum(1, keepdims=True))
    target *= rng.random((N, 1, H, W)) > 0.3
    # A valid vector may have zero components: only the zero vector is invalid.
    target[0, :, 0, 0] = (0, 0, 1)
    return Normals("normals"), _random((N, 3, H, W), 6), target.astype(np.float32)


def _depth_case():
    rng = np.random.default_rng(7)
    target = rng.uniform(0.5, 9, (N, 1, H, W))
    target[rng.random(target.shape) < 0.3] = 0
    return Depth("depth"), _random((N, 1, H, W), 8), target.astype(np.float32)


def _bce(logit, positive):
    return math.log1p(math.exp(-logit if positive else logit))


def _weighted_bce(logits, target, weight):
    total, valid = 0.0, 0
    for n, y, x in _pixels():
        label = target[n, 0, y, x]
        if label != 255:
            factor = weight if label == 1 else 1 - weight
            total += factor * _bce(logits[n, 0, y, x], label == 1)
            valid += 1
    return total / valid


def test_segmentation_is_cross_entropy_over_valid_pixels():
    task, logits, target = _segmentation_case()
    total, valid = 0.0, 0
    for n, y, x in _pixels():
        label = target[n, 0, y, x]
        if label != 255:
            scores = [math.exp(v) for v in logits[n, :, y, x]]
            total -= math.log(scores[label] / sum(scores))
            valid += 1
    assert _loss(task, logits, target) == pytest.approx(total / valid, rel=1e-5)


def test_saliency_is_balanced_over_the_batch():
    task, logits, target = _binary_case(Saliency("saliency"))
    labels = [target[n, 0, y, x] for n, y, x in _pixels()]
    share = labels.count(0) / (labels.count(0) + labels.count(1))
    expected = _weighted_bce(logits, target, share)
    assert _loss(task, logits, target) == pytest.approx(expected, rel=1e-5)
    # A fixed weight or one per image would give another value.
    assert expected != pytest.approx(_weighted_bce(logits, target, 0.5), rel=1e-2)


@pytest.mark.parametrize("weight", [0.95, 0.7])
def test_edge_weighs_positives_by_a_constant(weight):
    task = Edge("edge") if weight == 0.95 else Edge("edge", positive_weight=weight)
    task, logits, target = _binary_case(task)
    expected = _weighted_bce(logits, target, weight)
    assert _loss(task, logits, target) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("weight", [0, 1, 1.5])
def test_edge_refuses_a_weight_that_silences_one_side(weight):
    with pytest.raises(InputError, match="border: `positive_weight`"):
        build_tasks(dict(border=dict(type="Edge", positive_weight=weight)))


def test_normals_is_l1_between_unit_vectors():
    task, logits, target = _normals_case()
    total, elements = 0.0, 0
    for n, y, x in _pixels():
        label = target[n, :, y, x].astype(np.float64)
        if not any(label):
            continue
        length = math.sqrt(sum(v * v for v in logits[n, :, y, x]))
        for c in range(3):
            total += abs(logits[n, c, y, x] / length - label[c])
            elements += 1
    assert _loss(task, logits, target) == pytest.approx(total / elements, rel=1e-5)


def test_depth_is_l1_in_metres():
    task, logits, target = _depth_case()
    total, valid = 0.0, 0
    for n, y, x in _pixels():
        if target[n, 0, y, x] != 0:
            total += abs(logits[n, 0, y, x] - target[n, 0, y, x])
            valid += 1
    assert _loss(task, logits, target) == pytest.approx(total / valid, rel=1e-5)


CASES = {
    "segmentation": _segmentation_case,
    "saliency": lambda: _binary_case(Saliency("saliency")),
    "edge": lambda: _binary_case(Edge("edge")),
    "normals": _normals_case,
    "depth": _depth_case,
}


@pytest.mark.parametrize("name", CASES)
def test_gradient_comes_from_valid_pixels_only(name):
    task, logits, target = CASES[name]()
    logits = torch.tensor(logits, dtype=torch.float32, requires_grad=True)
    target = torch.as_tensor(target)
    task.loss(logits, target).backward()
    invalid = (~task.label.valid(target)).expand_as(logits)
    assert invalid.any()
    assert (logits.grad[invalid] == 0).all()
    touched = (logits.grad != 0).any(dim=1, keepdim=True)
    assert torch.equal(touched, task.label.valid(target))


@pytest.mark.parametrize("name", CASES)
def test_no_valid_pixel_gives_zero_with_a_gradient(name):
    task, logits, target = CASES[name]()
    logits = torch.tensor(logits, dtype=torch.float32, requires_grad=True)
    loss = task.loss(logits, torch.full_like(torch.as_tensor(target), task.label.fill))
    assert loss.item() == 0
    loss.backward()
    assert logits.grad is not None
    assert (logits.grad == 0).all()


@pytest.mark.parametrize("kind", [Saliency, Edge])
@pytest.mark.parametrize("value", [0, 1])
def test_one_sided_targets_stay_finite(kind, value):
    logits = torch.tensor(_random((1, 1, H, W), 9) * 50, dtype=torch.float32, requires_grad=True)
    loss = kind("task").loss(logits, torch.full((1, 1, H, W), value, dtype=torch.uint8))
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(logits.grad).all()
    # All negative: w = 1, and the weight 1 - w of negatives is 0; all positive: w = 0.
    assert (loss.item() == 0) == (kind is Saliency)


def test_segmentation_prediction_is_the_argmax():
    task, logits, _ = _segmentation_case()
    prediction = task.to_prediction(torch.tensor(logits))
    assert prediction.dtype == torch.uint8
    np.testing.assert_array_equal(prediction[:, 0], logits.argmax(axis=1))


@pytest.mark.parametrize("kind", [Saliency, Edge])
def test_foreground_prediction_is_one_sigmoid(kind):
    task, logits, _ = _binary_case(kind("task"))
    prediction = task.to_prediction(torch.tensor(logits))
    np.testing.assert_allclose(prediction, 1 / (1 + np.exp(-logits)))
    # After a second sigmoid, nothing would be below one half.
    assert prediction.min() < 0.1


def test_normals_prediction_has_unit_length():
    task, logits, _ = _normals_case()
    prediction = task.to_prediction(torch.tensor(logits)).numpy()
    lengths = np.sqrt((logits**2).sum(axis=1, keepdims=True))
    np.testing.assert_allclose(prediction, logits / lengths)
    np.testing.assert_allclose((prediction**2).sum(axis=1), 1)


def test_depth_prediction_is_never_negative():
    task, logits, _ = _depth_case()
    assert logits.min() < 0
    np.testing.assert_array_equal(
        task.to_prediction(torch.tensor(logits)), np.where(logits > 0, logits, 0)
    )


def test_build_tasks_keeps_order_and_names_an_unknown_type():
    tasks = build_tasks(dict(b=dict(type="Depth", loss_weight=3), a=dict(type="Edge")))
    assert list(tasks) == ["b", "a"]
    assert (tasks["b"].name, tasks["b"].loss_weight, tasks["a"].loss_weight) == ("b", 3.0, 1.0)
    with pytest.raises(InputError, match="'a': unknown type 'Dephts'.*Depth"):
        build_tasks(dict(a=dict(type="Dephts")))
    for empty in ({}, None, ["Depth"]):
        with pytest.raises(InputError, match="tasks"):
            build_tasks(empty)
    with pytest.raises(InputError, match="'a-b'"):
        build_tasks({"a-b": dict(type="Depth")})
    with pytest.raises(InputError, match="num_classes"):
        build_tasks(dict(a=dict(type="Segmentation", num_classes=1)))


@pytest.mark.parametrize("classes", [7, 21])
def test_cross_entropy_does_not_depend_on_how_logits_lie_in_memory(classes):
    task = Segmentation("semseg", num_classes=classes)
    target = torch.as_tensor(np.random.default_rng(0).integers(0, classes, (N, 1, H, W)))
    target[0, :, 1] = 255
    results = []
    for layout in (torch.contiguous_format, torch.channels_last):
        logits = torch.tensor(_random((N, classes, H, W), 1)).contiguous(memory_format=layout)
        loss = task.loss(logits.requires_grad_(), target)
        results.append((loss, *torch.autograd.grad(loss, logits)))
    for own, other in zip(*results, strict=True):
        torch.testing.assert_close(own, other)
