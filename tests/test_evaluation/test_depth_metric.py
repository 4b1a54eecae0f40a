"""Tests of the depth metric: by hand and by pixel loops."""

import math

import numpy as np
import pytest
import torch

from vmt_mm.evaluation import DepthMetric
from vmt_mm.structures import MultiTaskDataSample


def _sample(prediction: np.ndarray, label: np.ndarray | None) -> dict:
    sample = MultiTaskDataSample()
    sample.set_prediction("depth", torch.from_numpy(np.float32(prediction)[None]))
    if label is not None:
        sample.set_label("depth", torch.from_numpy(np.float32(label)[None]))
    return sample.to_dict()


def _evaluate(images: list, batch: int = 1) -> dict[str, float]:
    metric = DepthMetric("depth")
    samples = [_sample(*image) for image in images]
    for start in range(0, len(samples), batch):
        metric.process(None, samples[start : start + batch])
    return metric.evaluate(len(samples))


# Errors 0, 1, -1 and 2, 0: rmse sqrt((0 + 1 + 1 + 4 + 16) / 5), not a mean of two images' values.
#   p / g        ratio   < 1.25  < 1.5625  < 1.953125
#   2 / 2        1          x        x         x
#   5 / 4        1.25                x         x
#   1 / 2        2
#   3 / 1        3
#   0 / 4        infinite
# The pixel with label 0 has no ratio.
_BY_HAND = [
    (np.array([[2, 5, 1, 9]]), np.array([[2, 4, 2, 0]])),
    (np.array([[3, 0]]), np.array([[1, 4]])),
]


@pytest.mark.parametrize("batch", [1, 2])
def test_by_hand(batch: int) -> None:
    assert _evaluate(_BY_HAND, batch) == pytest.approx(
        {
            "depth/rmse": math.sqrt(22 / 5),
            "depth/abs_rel": (0 + 1 / 4 + 1 / 2 + 2 + 1) / 5,
            "depth/delta_1": 20,
            "depth/delta_2": 40,
            "depth/delta_3": 40,
            "depth/images": 2,
        }
    )


def _naive(images: list) -> dict[str, float]:
    """All metrics by a loop over pixels."""
    squares = relative = pixels = 0
    within = [0, 0, 0]
    for prediction, label in images:
        if label is None:
            continue
        for p, g in zip(prediction.ravel().tolist(), label.ravel().tolist(), strict=True):
            if g == 0:
                continue
            pixels += 1
            squares += (p - g) ** 2
            relative += abs(p - g) / g
            ratio = max(p / g, g / p) if p > 0 else math.inf
            for k in range(3):
                within[k] += ratio < 1.25 ** (k + 1)
    return dict(
        rmse=math.sqrt(squares / pixels),
        abs_rel=relative / pixels,
        **{f"delta_{k + 1}": 100 * within[k] / pixels for k in range(3)},
    )


@pytest.mark.parametrize("batch", [1, 2, 5])
@pytest.mark.parametrize("seed", [0, 1])
def test_equals_pixel_loops(seed: int, batch: int) -> None:
    rng = np.random.default_rng(seed)
    images = []
    for size in [(15, 17), (6, 13), (1, 1), (4, 4), (8, 5)]:
        label = rng.uniform(0.5, 9, size)
        prediction = np.maximum(label * rng.uniform(0.3, 1.8, size) - 0.3, 0)
        label[rng.random(size) < 0.3] = 0
        images.append((np.float32(prediction), np.float32(label)))
    images[2][1][...] = 3
    images[3] = (images[3][0], None)
    results = _evaluate(images, batch)
    assert results["depth/images"] == 4
    for name, value in _naive(images).items():
        assert results[f"depth/{name}"] == pytest.approx(value, rel=1e-6), name


def test_image_without_valid_pixel_changes_nothing() -> None:
    with_blank = _evaluate([_BY_HAND[0], (np.ones((2, 2)), np.zeros((2, 2))), _BY_HAND[1]])
    assert with_blank == _evaluate(_BY_HAND)


@pytest.mark.parametrize("label", [np.zeros((1, 2)), None])
def test_set_without_valid_pixel_reports_no_score(label: np.ndarray | None) -> None:
    assert _evaluate([(np.ones((1, 2)), label)]) == {}
