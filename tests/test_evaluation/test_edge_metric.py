"""Tests of the edge metric: by hand and by pixel loops."""

import math

import cv2
import numpy as np
import pytest
import torch
from naive_edges import naive_boundary_scores, naive_thin

from vmt_mm.errors import InputError
from vmt_mm.evaluation import EdgeMetric
from vmt_mm.evaluation.edge import _widen, nms_thin
from vmt_mm.structures import MultiTaskDataSample
from vmt_mm.tasks import Edge


def _sample(probability: np.ndarray, label: np.ndarray | None) -> dict:
    sample = MultiTaskDataSample()
    sample.set_prediction("edge", torch.from_numpy(np.float32(probability)[None]))
    if label is not None:
        sample.set_label("edge", torch.from_numpy(np.uint8(label)[None]))
    return sample.to_dict()


def _evaluate(images: list, batch: int = 1, **kwargs: float) -> dict[str, float]:
    metric = EdgeMetric("edge", **kwargs)
    samples = [_sample(*image) for image in images]
    for start in range(0, len(samples), batch):
        metric.process(None, samples[start : start + batch])
    return metric.evaluate(len(samples))


def _lines(columns: dict[int, float], size: tuple[int, int] = (8, 24)) -> np.ndarray:
    """A map of vertical lines, one pixel wide: column -> value."""
    image = np.zeros(size)
    for column, value in columns.items():
        image[:, column] = value
    return image


# Lines of 8 pixels. Image A: two labels, matched by lines of 0.9 (2 pixels off) and 0.42 (exact),
# and a false line of 0.62. Image B: one label, matched by 0.72. Tolerance 2 pixels, up to t =
#   0.40: predicted 4, right 3, found 3 of 3: F = 2 * 3/4 / (7/4) = 6/7, the best
#   0.60: predicted 3, right 2, found 2 of 3: F = 2/3
#   0.70: predicted 2, right 2, found 2 of 3: F = 4/5
#   0.85: predicted 1, right 1, found 1 of 3: F = 1/2
_BY_HAND = [
    (_lines({4: 0.9, 12: 0.62, 19: 0.42}), _lines({6: 1, 19: 1})),
    (_lines({10: 0.72}), _lines({9: 1})),
]
_TWO_PIXELS = 2 / math.hypot(8, 24) + 1e-9


@pytest.mark.parametrize("batch", [1, 2])
def test_by_hand(batch: int) -> None:
    results = _evaluate(_BY_HAND, batch, tolerance=_TWO_PIXELS)
    results.pop("edge/loss")
    assert results == pytest.approx(
        {
            "edge/boundaryF": 600 / 7,
            "edge/precision": 75,
            "edge/recall": 100,
            "edge/threshold": 0.05,
            "edge/images": 2,
        }
    )


def test_the_best_threshold_is_that_of_the_full_set() -> None:
    # Each image has a perfect threshold, but both together have none.
    low = (_lines({4: 0.3, 16: 0.12}), _lines({4: 1}))
    high = (_lines({4: 0.9, 16: 0.5}), _lines({4: 1}))
    for image in (low, high):
        assert _evaluate([image])["edge/boundaryF"] == 100
    # At 0.15..0.25: predicted 3, right 2, found 2 of 2; from 0.5 on: 1, 1, 1 of 2.
    results = _evaluate([low, high])
    assert results["edge/boundaryF"] == pytest.approx(80)
    assert results["edge/threshold"] == pytest.approx(0.15)


def test_distance_is_a_disc_and_a_share_of_the_diagonal() -> None:
    label, prediction = np.zeros((30, 40)), np.zeros((30, 40))
    label[15, 20], prediction[18, 24] = 1, 1  # 5 pixels off; the diagonal has 50
    assert _evaluate([(prediction, label)], tolerance=0.1)["edge/boundaryF"] == 100
    assert _evaluate([(prediction, label)], tolerance=0.0999)["edge/boundaryF"] == 0
    # 0.75 % of 400 is 3, and an offset of 3 x 3 is farther
    label, prediction = np.zeros((240, 320)), np.zeros((240, 320))
    label[100, 100], prediction[100, 103] = 1, 1
    assert _evaluate([(prediction, label)])["edge/boundaryF"] == 100
    assert _evaluate([(np.roll(prediction, 1, 0), label)])["edge/boundaryF"] == 0


def test_every_threshold_counts() -> None:
    # The true line is just above t and a false one at t or below, so only t is perfect.
    for k in range(1, 20):
        above, below = (math.floor(12.75 * k) + 1) / 255, math.floor(12.75 * k) / 255
        results = _evaluate([(_lines({4: above, 16: below}), _lines({4: 1}))])
        assert results["edge/boundaryF"] == 100
        assert results["edge/threshold"] == pytest.approx(k / 20)


def test_ignored_pixels_neither_help_nor_harm() -> None:
    label = _lines({4: 1})
    label[:, 10:] = 255
    results = _evaluate([(_lines({4: 0.9, 16: 0.9}), label)])
    assert results["edge/boundaryF"] == 100
    label[:, :6] = 255
    assert "edge/boundaryF" not in _evaluate([(_lines({4: 0.9}), label)])


def test_thick_predictions_are_thinned() -> None:
    wide = np.minimum(1, sum(_lines({c: v}) for c, v in {9: 0.5, 10: 0.9, 11: 0.5}.items()))
    bits = np.uint8(np.rint(255 * wide))
    np.testing.assert_array_equal(nms_thin(bits), _lines({10: 230}))
    # of two equal columns one remains; of a plateau or a terrace, nothing
    assert (nms_thin(np.uint8(_lines({9: 200, 10: 200}))) > 0).sum() == 8
    assert not nms_thin(np.full((9, 9), 90, np.uint8)).any()
    assert not nms_thin(np.tile(np.arange(0, 90, 10, dtype=np.uint8), (9, 1))).any()
    terraces = np.repeat(np.uint8([240, 120, 0]), 14)
    assert not nms_thin(np.tile(terraces, (9, 1))).any()
    # of a slanted crest, 5 pixels wide, a staircase remains
    y, x = np.mgrid[:40, :40]
    crest = nms_thin(np.uint8(np.rint(250 * np.exp(-((0.6 * x + 0.8 * y - 28) ** 2) / 4)))) > 0
    assert set(crest[4:36].sum(axis=0)[8:32]) == {1, 2}


_OFFSET = 0.2


@pytest.mark.parametrize("value", [255, 140])
@pytest.mark.parametrize("width", [1, 2, 3, 5, 6, 7, 8, 12, 15, 25])
def test_the_middle_of_a_band_remains(width: int, value: int) -> None:
    y, x = np.mgrid[:101, :101] - 50.0
    for degrees in range(0, 180, 15):
        cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
        across, along = x * cos + y * sin - _OFFSET, y * cos - x * sin
        kept = nms_thin(np.uint8(value * (np.abs(across) <= width / 2))) > 0
        inside = kept & (np.abs(along) < 30)  # without the ends of the band
        # half a pixel if two are in the middle, plus the raster of a slanted line
        assert np.abs(across[inside]).max() < 1.4, degrees
        assert inside.sum() < 1.5 * 60, degrees
        points = along[kept & (np.abs(across) < 1.4)]
        for place in np.arange(-29, 30):
            assert np.abs(points - place).min() < 1.1, degrees


def test_adjacent_bands_do_not_move_each_other() -> None:
    image = _lines(dict.fromkeys((*range(10, 22), *range(30, 35)), 255), (20, 60)).astype(np.uint8)
    for bands in (image, image.T):
        rows, columns = np.nonzero(nms_thin(bands))
        places = columns if bands is image else rows
        assert set(places.tolist()) == {16, 32}  # of 10..21, and of 30..34


@pytest.mark.parametrize("radius", [0, 0.5, 1, 2**0.5, 2, 5, 5.2, 12.9])
def test_values_are_widened_by_a_disc(radius: float) -> None:
    rng = np.random.default_rng(0)
    for size in [(1, 1), (1, 9), (30, 41)]:
        values = np.uint8(rng.integers(1, 256, size) * (rng.random(size) < 0.02))
        values[0, -1] = 200
        expected = np.zeros_like(values)
        y, x = np.mgrid[: size[0], : size[1]]
        for row, column in np.argwhere(values):
            near = (y - row) ** 2 + (x - column) ** 2 <= radius**2 + 1e-9
            expected[near] = np.maximum(expected[near], values[row, column])
        np.testing.assert_array_equal(_widen(values, radius), expected)


@pytest.mark.parametrize("seed", range(3))
def test_thinning_equals_pixel_loops(seed: int) -> None:
    rng = np.random.default_rng(seed)
    for size in [(13, 17), (1, 9), (2, 2), (1, 1), (9, 1)]:
        noise = rng.integers(0, 256, size).astype(np.uint8)
        flat = (noise // 86 * 100).astype(np.uint8)  # with ties
        bands = np.uint8(255 * (noise > 100))  # and with plateaus
        bands = cv2.dilate(bands * (rng.random(size) < 0.1), np.ones((7, 7), np.uint8))
        for values in (noise, flat, bands):
            np.testing.assert_array_equal(nms_thin(values), naive_thin(values))


def _naive_loss(images: list, weight: float) -> float:
    total, pixels = 0.0, 0
    for probability, label in images:
        for p, g in zip(probability.ravel().tolist(), label.ravel().tolist(), strict=True):
            if g != 255:
                p = min(max(p, 2.0**-24), 1 - 2.0**-24)
                total -= weight * math.log(p) if g == 1 else (1 - weight) * math.log(1 - p)
                pixels += 1
    return total / pixels


@pytest.mark.parametrize("batch", [1, 2, 6])
@pytest.mark.parametrize("seed", [0, 1])
def test_equals_pixel_loops(seed: int, batch: int) -> None:
    rng = np.random.default_rng(seed)
    images = []
    for size in [(15, 17), (16, 23), (1, 1), (4, 4), (18, 5), (12, 12)]:
        label = (rng.random(size) < 0.1).astype(np.int64)
        probability = np.float32(np.clip(0.5 * label + 0.5 * rng.random(size), 0, 1))
        label[rng.random(size) < 0.1] = 255
        images.append((probability, label))
    images[0][0][3, 3], images[0][0][3, 4] = 0, 1  # whose logits are infinite
    images[3] = (images[3][0], None)
    images[5][1][...] = 0  # nothing to find
    results = _evaluate(images, batch, tolerance=0.08, positive_weight=0.8)
    labelled = [image for image in images if image[1] is not None]
    assert results["edge/images"] == len([x for x in labelled if (x[1] != 255).any()])
    assert results["edge/loss"] == pytest.approx(_naive_loss(labelled, 0.8), rel=1e-6)
    bits = [(np.uint8(np.rint(p * 255)), g) for p, g in labelled]
    for name, value in naive_boundary_scores(bits, 0.08).items():
        assert results[f"edge/{name}"] == pytest.approx(value, abs=1e-6), name


def test_loss_is_that_of_the_task() -> None:
    rng = np.random.default_rng(2)
    logits = torch.tensor(rng.normal(scale=4, size=(1, 1, 9, 11)), dtype=torch.float32)
    label = torch.tensor((rng.random((1, 1, 9, 11)) < 0.2).astype(np.uint8))
    label[..., 0] = 255
    task = Edge("edge", positive_weight=0.9)
    config = task.metric()
    assert config.pop("type") == "EdgeMetric"
    metric = EdgeMetric(**config)
    metric.process(None, [_sample(task.to_prediction(logits)[0, 0].numpy(), label[0, 0].numpy())])
    loss = float(task.loss(logits, label))
    assert metric.evaluate(1)["edge/loss"] == pytest.approx(loss, rel=1e-5)


def test_image_without_valid_pixel_changes_nothing() -> None:
    blank = (_lines({4: 0.9}), np.full((8, 24), 255))
    assert _evaluate([_BY_HAND[0], blank, _BY_HAND[1]]) == _evaluate(_BY_HAND)


@pytest.mark.parametrize("label", [np.array([[255, 255]]), None])
def test_set_without_valid_pixel_reports_nothing(label: np.ndarray | None) -> None:
    assert _evaluate([(np.array([[0.9, 0.1]]), label)]) == {}


def test_impossible_tolerance_is_refused() -> None:
    with pytest.raises(InputError, match="edge: `tolerance`"):
        EdgeMetric("edge", tolerance=-0.1)
