"""Tests of the normals metric: by hand and by pixel loops."""

import math

import numpy as np
import pytest
import torch

from vmt_mm.evaluation import NormalsMetric
from vmt_mm.structures import MultiTaskDataSample

#: Bin width of the histogram from which the median is computed.
_BIN = 0.05


def _sample(prediction: np.ndarray, label: np.ndarray | None) -> dict:
    """A sample from arrays (H, W, 3)."""
    sample = MultiTaskDataSample()
    sample.set_prediction("normals", torch.from_numpy(prediction.transpose(2, 0, 1).copy()))
    if label is not None:
        sample.set_label("normals", torch.from_numpy(label.transpose(2, 0, 1).copy()))
    return sample.to_dict()


def _evaluate(images: list, batch: int = 1) -> dict[str, float]:
    metric = NormalsMetric("normals")
    samples = [_sample(*image) for image in images]
    for start in range(0, len(samples), batch):
        metric.process(None, samples[start : start + batch])
    return metric.evaluate(len(samples))


def _tilted(angles: list[float]) -> tuple[np.ndarray, np.ndarray]:
    """A row of unnormalised predictions at these angles to the labels; NaN: no label."""
    label = np.zeros((1, len(angles), 3))
    label[..., 2] = 1
    prediction = np.zeros_like(label)
    for i, angle in enumerate(angles):
        label[0, i] *= not math.isnan(angle)
        radians = math.radians(0 if math.isnan(angle) else angle)
        prediction[0, i] = 3 * math.sin(radians), 0, 3 * math.cos(radians)
    return prediction, label


# Angles 10 and 20 in one image, 25, 60 and 90 in the other:
#   mean 205 / 5 = 41, where a mean of the images' means would be (15 + 58.33) / 2 = 36.67
#   rmse sqrt((100 + 400 + 625 + 3600 + 8100) / 5) = sqrt(2565) = 50.65, not the mean
_BY_HAND = [_tilted([10, math.nan, 20]), _tilted([25, 60, 90])]


@pytest.mark.parametrize("batch", [1, 2])
def test_by_hand(batch: int) -> None:
    results = _evaluate(_BY_HAND, batch)
    assert results.pop("normals/median") == pytest.approx(25, abs=_BIN)
    assert results == pytest.approx(
        {
            "normals/mErr": 41,
            "normals/rmse": math.sqrt(2565),
            "normals/within_11.25": 20,
            "normals/within_22.5": 40,
            "normals/within_30": 60,
            "normals/images": 2,
        }
    )


def test_ends_of_the_range() -> None:
    # Rounding may move the cosine outside -1..1; the opposite direction is in the last bin.
    vectors = np.random.default_rng(0).normal(size=(30, 30, 3))
    vectors /= np.linalg.norm(vectors, axis=-1, keepdims=True)
    for sign, angle in [(1, 0), (-1, 180)]:
        results = _evaluate([(sign * vectors, vectors)])
        assert results["normals/mErr"] == pytest.approx(angle, abs=1e-3)
        assert results["normals/median"] == pytest.approx(angle, abs=_BIN)


def _naive(images: list) -> dict[str, float]:
    """All metrics by a loop over pixels."""
    angles = []
    for prediction, label in images:
        if label is None:
            continue
        for p, g in zip(
            prediction.reshape(-1, 3).tolist(), label.reshape(-1, 3).tolist(), strict=True
        ):
            if g == [0, 0, 0]:
                continue
            length = math.sqrt(p[0] ** 2 + p[1] ** 2 + p[2] ** 2)
            cosine = sum(a / length * b for a, b in zip(p, g, strict=True))
            angles.append(math.degrees(math.acos(min(1.0, max(-1.0, cosine)))))
    n = len(angles)
    return {
        "mErr": sum(angles) / n,
        "rmse": math.sqrt(sum(a * a for a in angles) / n),
        "within_11.25": 100 * sum(a < 11.25 for a in angles) / n,
        "within_22.5": 100 * sum(a < 22.5 for a in angles) / n,
        "within_30": 100 * sum(a < 30 for a in angles) / n,
        "median": float(np.median(angles)),
    }


@pytest.mark.parametrize("batch", [1, 2, 5])
@pytest.mark.parametrize("seed", [0, 1])
def test_equals_pixel_loops(seed: int, batch: int) -> None:
    rng = np.random.default_rng(seed)
    images = []
    for size in [(15, 17), (16, 13), (1, 1), (14, 14), (18, 15)]:
        label = rng.normal(size=(*size, 3))
        label /= np.linalg.norm(label, axis=-1, keepdims=True)
        noise = rng.gamma(1.0, 0.4, size=(*size, 1))
        prediction = 2.5 * (label + noise * rng.normal(size=(*size, 3)))
        label[rng.random(size) < 0.2] = 0
        images.append((prediction, label))
    images[2][1][...] = [0.6, 0, -0.8]
    images[3] = (images[3][0], None)
    results = _evaluate(images, batch)
    assert results["normals/images"] == 4
    for name, value in _naive(images).items():
        # An odd number of pixels or not: angles are dense around the median.
        tolerance = 2 * _BIN if name == "median" else 1e-6
        assert results[f"normals/{name}"] == pytest.approx(value, abs=tolerance), name


def test_image_without_valid_pixel_changes_nothing() -> None:
    with_blank = _evaluate([_BY_HAND[0], _tilted([math.nan, math.nan]), _BY_HAND[1]])
    assert with_blank == _evaluate(_BY_HAND)


def test_set_without_valid_pixel_reports_no_score() -> None:
    for image in (_tilted([math.nan]), (_tilted([5])[0], None)):
        assert _evaluate([image]) == {}


def test_the_median_is_interpolated_within_its_bin() -> None:
    # Of four, one is below the bin 10..10.05 and three are in it: the median is a third into it.
    results = _evaluate([_tilted([5, 10.01, 10.02, 10.03])])
    assert results["normals/median"] == pytest.approx(10 + 0.05 / 3, abs=1e-6)
