"""Tests of the depth metric: by hand and by pixel loops."""

import math

import numpy as np
import pytest
import torch

from vmt_mm.errors import InputError
from vmt_mm.evaluation import DepthMetric
from vmt_mm.structures import MultiTaskDataSample


def _sample(prediction: np.ndarray, label: np.ndarray | None) -> dict:
    sample = MultiTaskDataSample()
    sample.set_prediction("depth", torch.from_numpy(np.float32(prediction)[None]))
    if label is not None:
        sample.set_label("depth", torch.from_numpy(np.float32(label)[None]))
    return sample.to_dict()


def _evaluate(images: list, batch: int = 1, **options) -> dict[str, float]:
    metric = DepthMetric("depth", **options)
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
# The pixel with label 0 has no ratio. Logarithms take predictions below 1 mm as 1 mm.
# Medians 2 and 2 of the first image: its prediction stays; 1.5 and 2.5: 3 and 0 become 5 and 0.
_BY_HAND = [
    (np.array([[2, 5, 1, 9]]), np.array([[2, 4, 2, 0]])),
    (np.array([[3, 0]]), np.array([[1, 4]])),
]


def _deviation(*values: float) -> float:
    mean = sum(values) / len(values)
    return math.sqrt(sum((v - mean) ** 2 for v in values) / len(values))


@pytest.mark.parametrize("batch", [1, 2])
def test_by_hand(batch: int) -> None:
    assert _evaluate(_BY_HAND, batch) == pytest.approx(
        {
            "depth/rmse": math.sqrt(22 / 5),
            "depth/abs_rel": (0 + 1 / 4 + 1 / 2 + 2 + 1) / 5,
            "depth/delta_1": 20,
            "depth/delta_2": 40,
            "depth/delta_3": 40,
            "depth/log10": (math.log10(1.25) + math.log10(2) + math.log10(3) + math.log10(4e3)) / 5,
            "depth/silog": 50 * _deviation(0, math.log(1.25), -math.log(2))
            + 50 * _deviation(math.log(3), math.log(1e-3 / 4)),
            "depth/aligned_rmse": math.sqrt((0 + 1 + 1 + 16 + 16) / 5),
            "depth/aligned_abs_rel": (0 + 1 / 4 + 1 / 2 + 4 + 1) / 5,
            "depth/images": 2,
        }
    )


def _naive(images: list) -> dict[str, float]:
    """All metrics by a loop over pixels."""
    squares = relative = pixels = logs = 0
    aligned, of_images = [], []
    within = [0, 0, 0]
    for prediction, label in images:
        if label is None:
            continue
        known = [
            (p, g)
            for p, g in zip(prediction.ravel().tolist(), label.ravel().tolist(), strict=True)
            if g != 0
        ]
        scale = np.median([g for _, g in known]) / np.median([p for p, _ in known])
        aligned += [(scale * p, g) for p, g in known]
        of_images.append(100 * _deviation(*(math.log(max(p, 1e-3) / g) for p, g in known)))
        for p, g in known:
            logs += abs(math.log10(max(p, 1e-3) / g))
            pixels += 1
            squares += (p - g) ** 2
            relative += abs(p - g) / g
            ratio = max(p / g, g / p) if p > 0 else math.inf
            for k in range(3):
                within[k] += ratio < 1.25 ** (k + 1)
    return dict(
        rmse=math.sqrt(squares / pixels),
        abs_rel=relative / pixels,
        log10=logs / pixels,
        silog=sum(of_images) / len(of_images),
        aligned_rmse=math.sqrt(sum((p - g) ** 2 for p, g in aligned) / pixels),
        aligned_abs_rel=sum(abs(p - g) / g for p, g in aligned) / pixels,
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


def test_limits_select_labels_and_clamp_predictions() -> None:
    # labels 1 and 10 are on the limits, which do not count; 12 clamps to 10, and 0.5 to 1
    prediction, label = np.array([[12, 0.5, 7, 7, 3]]), np.array([[8, 2, 1, 10, 4]])
    results = _evaluate([(prediction, label)], min_depth=1, max_depth=10)
    assert results["depth/rmse"] == pytest.approx(math.sqrt((2**2 + 1 + 1) / 3))
    assert results["depth/log10"] == pytest.approx(
        (math.log10(10 / 8) + math.log10(2 / 1) + math.log10(4 / 3)) / 3
    )
    # the aligned prediction is scaled before it is clamped: median 4 / 3
    aligned = [abs(10 - 8), abs(1 - 2), abs(4 - 4)]
    assert results["depth/aligned_rmse"] == pytest.approx(math.sqrt(sum(e**2 for e in aligned) / 3))


@pytest.mark.parametrize(
    ("crop", "size", "rows", "columns"),
    [
        # KITTI: rows and columns of published evaluation code, rounded down
        ("garg", (375, 1242), (153, 371), (44, 1197)),
        ("eigen", (375, 1242), (124, 342), (44, 1197)),
        ("garg", (370, 1224), (151, 366), (43, 1180)),
        ("nyu", (480, 640), (45, 471), (41, 601)),
        (None, (9, 11), (0, 9), (0, 11)),
    ],
)
def test_crops(crop, size, rows, columns) -> None:
    label = np.ones(size)
    inside = np.zeros(size, bool)
    inside[slice(*rows), slice(*columns)] = True
    results = _evaluate([(np.where(inside, 3, 100), label)], crop=crop)
    assert results["depth/rmse"] == 2  # no pixel outside counts
    mixed = np.full(size, 3.0)
    for row, column in ((rows[0], columns[0]), (rows[1] - 1, columns[1] - 1)):
        mixed[row, column] = 1  # both corners count
    count = inside.sum()
    results = _evaluate([(mixed, label)], crop=crop)
    assert results["depth/abs_rel"] == pytest.approx(2 * (count - 2) / count)


def test_unfit_options() -> None:
    with pytest.raises(InputError, match="depth: `crop` must be one of .*'garg'.* got 'Garg'"):
        DepthMetric("depth", crop="Garg")
    with pytest.raises(InputError, match=r"depth: `crop`='nyu' is .*\(480, 640\).*\(9, 11\)"):
        _evaluate([(np.ones((9, 11)), np.ones((9, 11)))], crop="nyu")
