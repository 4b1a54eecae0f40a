"""Tests of the saliency metric: by hand and by pixel loops."""

import numpy as np
import pytest
import torch

from vmt_mm.errors import InputError
from vmt_mm.evaluation import SaliencyMetric
from vmt_mm.structures import MultiTaskDataSample
from vmt_mm.tasks import Saliency


def _sample(probability: np.ndarray, label: np.ndarray | None) -> dict:
    sample = MultiTaskDataSample()
    sample.set_prediction("saliency", torch.from_numpy(np.float32(probability)[None]))
    if label is not None:
        sample.set_label("saliency", torch.from_numpy(np.uint8(label)[None]))
    return sample.to_dict()


def _evaluate(images: list, batch: int = 1, **options: object) -> dict[str, float]:
    metric = SaliencyMetric("saliency", **options)
    samples = [_sample(*image) for image in images]
    for start in range(0, len(samples), batch):
        metric.process(None, samples[start : start + batch])
    return metric.evaluate(len(samples))


# Image A, labels 1 1 0 0 0; image B, labels 0 1 and one ignored pixel.
#   t           A: predicted J    P    R     B: predicted J   P    R    mean J  F of mean P, R
#   0.20-0.30         3     2/3  2/3   1           2     1/2  1/2  1     7/12     14/19
#   0.35-0.45         2      1    1    1           2     1/2  1/2  1     3/4       6/7
#   0.50-0.55         2      1    1    1           1      0    0   0     1/2       1/2
#   0.60              2      1    1    1           0      0    1   0     1/2       2/3
#   0.65-0.90         1     1/2   1   1/2          0      0    1   0     1/4       2/5
# At 0.5 over both: TP 2, FP 1, FN 1, TN 3 -> foreground 2/4, background 3/5.
_BY_HAND = [
    (np.array([[0.95, 0.62, 0.32, 0.1, 0.1]]), np.array([[1, 1, 0, 0, 0]])),
    (np.array([[0.57, 0.47, 0.99]]), np.array([[0, 1, 255]])),
]


@pytest.mark.parametrize("batch", [1, 2])
def test_by_hand(batch: int) -> None:
    assert _evaluate(_BY_HAND, batch) == pytest.approx(
        {
            "saliency/mIoU": 75,
            "saliency/maxF": 600 / 7,
            "saliency/threshold": 0.35,
            "saliency/two_class_mIoU": 100 * (2 / 4 + 3 / 5) / 2,
            "saliency/images": 2,
        }
    )


def _ratio(part: int, total: int, empty: float = 1.0) -> float:
    return part / total if total else empty


def _naive(images: list) -> dict[str, float]:
    """All metrics by loops over thresholds, images and pixels."""
    thresholds = [0.2 + 0.05 * i for i in range(15)]
    jaccards, f_measures = [], []
    for t in thresholds:
        jaccard, precision, recall = [], [], []
        for probability, label in images:
            if label is None:
                continue
            both = either = predicted = labelled = 0
            for p, g in zip(probability.ravel().tolist(), label.ravel().tolist(), strict=True):
                if g == 255:
                    continue
                both += p > t and g == 1
                either += p > t or g == 1
                predicted += p > t
                labelled += g == 1
            jaccard.append(_ratio(both, either))
            precision.append(_ratio(both, predicted))
            recall.append(_ratio(both, labelled))
        n = len(jaccard)
        jaccards.append(sum(jaccard) / n)
        p, r = sum(precision) / n, sum(recall) / n
        f_measures.append(_ratio(2 * p * r, p + r, empty=0.0))
    table = np.zeros((2, 2))
    for probability, label in images:
        if label is not None:
            for p, g in zip(probability.ravel().tolist(), label.ravel().tolist(), strict=True):
                if g != 255:
                    table[g, int(p > 0.5)] += 1
    wrong = table[0, 1] + table[1, 0]
    return dict(
        mIoU=100 * max(jaccards),
        maxF=100 * max(f_measures),
        threshold=thresholds[jaccards.index(max(jaccards))],
        two_class_mIoU=50 * sum(table[c, c] / (table[c, c] + wrong) for c in (0, 1)),
    )


@pytest.mark.parametrize("batch", [1, 2, 7])
@pytest.mark.parametrize("seed", [0, 1])
def test_equals_pixel_loops(seed: int, batch: int) -> None:
    rng = np.random.default_rng(seed)
    images = []
    for size in [(5, 7), (6, 3), (1, 1), (4, 4), (8, 5), (3, 3), (2, 9)]:
        label = (rng.random(size) < 0.4).astype(np.int64)
        probability = np.clip(0.3 * label + 0.7 * rng.random(size), 0, 1)
        label[rng.random(size) < 0.2] = 255
        images.append((probability, label))
    images[3] = (images[3][0], None)
    images[4] = (images[4][0], np.zeros_like(images[4][1]))  # nothing salient
    images[5] = (np.zeros((3, 3)), np.zeros((3, 3), np.int64))  # and nothing predicted
    images[6] = (np.zeros((2, 9)), images[6][1])
    # float32, as the model predicts; no value lies on a threshold
    results = _evaluate(images, batch)
    assert results["saliency/images"] == 6
    for name, value in _naive(images).items():
        assert results[f"saliency/{name}"] == pytest.approx(value, abs=1e-6), name


def test_both_empty_is_right() -> None:
    results = _evaluate([(np.full((2, 2), 0.1), np.zeros((2, 2)))])
    # A second sigmoid would turn 0.1 into 0.525, foreground at 0.5.
    assert results["saliency/mIoU"] == 100
    assert results["saliency/two_class_mIoU"] == 100


def test_all_15_thresholds_count() -> None:
    # A value between t and the next threshold is right only at t: it must be above t, and its
    # neighbour must not. Every t is the best one once.
    for i in range(15):
        t = 0.2 + 0.05 * i
        results = _evaluate([(np.array([[t + 0.02, t - 0.02]]), np.array([[1, 0]]))])
        assert results["saliency/mIoU"] == 100
        assert results["saliency/threshold"] == pytest.approx(t)
    for p in ([0.19, 0.1], [0.99, 0.92]):  # below the first and above the last one
        assert _evaluate([(np.array([p]), np.array([[1, 0]]))])["saliency/mIoU"] < 100


def test_image_without_valid_pixel_changes_nothing() -> None:
    blank = (np.array([[0.9, 0.1]]), np.array([[255, 255]]))
    with_blank = _evaluate([_BY_HAND[0], blank, _BY_HAND[1]])
    assert with_blank == _evaluate(_BY_HAND)


@pytest.mark.parametrize("label", [np.array([[255, 255]]), None])
def test_set_without_valid_pixel_reports_no_score(label: np.ndarray | None) -> None:
    assert _evaluate([(np.array([[0.9, 0.1]]), label)]) == {}


# The two images above, at thresholds 0.25 and 0.6:
#   t      A: true, predicted of 2     B: true, predicted of 1     both: P    R
#   0.25            2, 3                        1, 2                    3/5   1
#   0.60            2, 2                        0, 0                     1   2/3
# and means over images: P 7/12 and R 1; P 1 and R 1/2.
@pytest.mark.parametrize(
    ("average", "beta_squared", "best"),
    [
        ("set", 1.0, 4 / 5),  # of 3/4 and 4/5
        ("set", 0.3, 1.3 * (2 / 3) / (0.3 + 2 / 3)),  # of 0.661 and 0.897
        ("set", 4.0, 5 * (3 / 5) / (4 * 3 / 5 + 1)),  # of 0.882 and 0.714
        ("images", 0.3, 1.3 * 0.5 / (0.3 + 0.5)),  # of 0.645 and 0.813
        ("images", 1.0, 14 / 19),  # of 14/19 and 2/3
    ],
)
def test_f_measure_by_hand(average: str, beta_squared: float, best: float) -> None:
    options = dict(thresholds=(0.25, 0.6), average=average, beta_squared=beta_squared)
    results = _evaluate(_BY_HAND, **options)
    assert results["saliency/maxF"] == pytest.approx(100 * best)
    assert results["saliency/threshold"] == 0.25  # the Jaccard's: 7/12 and 1/2
    assert results["saliency/mIoU"] == pytest.approx(100 * 7 / 12)


def test_thresholds_of_the_f_measure_are_its_own() -> None:
    # F uses those of the table above; the Jaccard keeps its 15.
    options = dict(f_thresholds=(0.25, 0.6), average="set")
    results = _evaluate(_BY_HAND, **options)
    assert results.pop("saliency/maxF") == pytest.approx(100 * 4 / 5)
    plain = _evaluate(_BY_HAND)
    plain.pop("saliency/maxF")
    assert results == plain


@pytest.mark.parametrize("seed", [0, 1])
def test_averages_over_the_set_equal_pixel_loops(seed: int) -> None:
    rng = np.random.default_rng(seed)
    thresholds, images = [0.05 * i for i in range(1, 20)], []
    for size in [(5, 7), (6, 3), (1, 1), (8, 5)]:
        label = (rng.random(size) < 0.4).astype(np.int64)
        probability = np.clip(0.3 * label + 0.7 * rng.random(size), 0, 1)
        label[rng.random(size) < 0.2] = 255
        images.append((probability, label))
    best = 0.0
    for t in thresholds:
        both = predicted = labelled = 0
        for probability, label in images:
            for p, g in zip(probability.ravel().tolist(), label.ravel().tolist(), strict=True):
                both += g == 1 and p > t
                predicted += g != 255 and p > t
                labelled += g == 1
        p, r = _ratio(both, predicted), _ratio(both, labelled)
        best = max(best, 1.3 * p * r / (0.3 * p + r))
    options = dict(thresholds=thresholds, average="set", beta_squared=0.3)
    assert _evaluate(images, 2, **options)["saliency/maxF"] == pytest.approx(100 * best, abs=1e-6)


@pytest.mark.parametrize(
    "options",
    [
        dict(thresholds=()),
        dict(thresholds=(0.5, 1.5)),
        dict(f_thresholds=()),
        dict(beta_squared=0),
        dict(average="all"),
    ],
)
def test_impossible_options_are_refused(options: dict) -> None:
    with pytest.raises(InputError, match=f"saliency: .*{next(iter(options))}"):
        SaliencyMetric("saliency", **options)
    with pytest.raises(InputError, match="`primary_metric` must be one of"):
        Saliency("saliency", primary_metric="F")


def test_a_value_on_a_threshold_is_not_above_it() -> None:
    image = np.array([[0.75, 0.5]]), np.array([[1, 0]])
    results = _evaluate([image], thresholds=(0.5,))
    assert results["saliency/mIoU"] == results["saliency/two_class_mIoU"] == 100
