"""Tests of the segmentation metric: by hand, by pixel loops and by mmseg's own metric."""

from unittest import mock

import numpy as np
import pytest
import torch
from mmseg.evaluation.metrics import IoUMetric

from vmt_mm.errors import InputError
from vmt_mm.evaluation import SegmentationMetric
from vmt_mm.evaluation.iou import class_table
from vmt_mm.evaluation.task_metric import is_of_class
from vmt_mm.structures import MultiTaskDataSample


def _sample(prediction: np.ndarray, label: np.ndarray | None, task: str = "semseg") -> dict:
    """A sample as mmengine's Evaluator passes it to a metric, from arrays (H, W)."""
    sample = MultiTaskDataSample()
    sample.set_prediction(task, torch.from_numpy(np.uint8(prediction)[None]))
    if label is not None:
        sample.set_label(task, torch.from_numpy(np.uint8(label)[None]))
    return sample.to_dict()


def _evaluate(metric: SegmentationMetric, samples: list[dict], batch: int = 1) -> dict:
    for start in range(0, len(samples), batch):
        metric.process(None, samples[start : start + batch])
    return metric.evaluate(len(samples))


def _images(
    seed: int, classes: int, missing: tuple = (3,)
) -> list[tuple[np.ndarray, np.ndarray | None]]:
    """Predictions and labels of images of different sizes, some pixels ignored."""
    rng = np.random.default_rng(seed)
    images = []
    for index, size in enumerate([(5, 7), (6, 3), (1, 1), (4, 4), (8, 5)]):
        label = rng.integers(0, classes, size)
        prediction = np.where(rng.random(size) < 0.5, label, rng.integers(0, classes, size))
        label[rng.random(size) < 0.2] = 255
        images.append((prediction, None if index in missing else label))
    return images


def _naive(images: list, classes: int, skip_background: bool, absent: str) -> dict[str, float]:
    """IoU by loops over pixels and classes."""
    tp, fp, fn = [0] * classes, [0] * classes, [0] * classes
    right = pixels = counted = 0
    for prediction, label in images:
        if label is None:
            continue
        if skip_background and all(v in (0, 255) for v in label.ravel()):
            continue
        counted += 1
        for p, g in zip(prediction.ravel().tolist(), label.ravel().tolist(), strict=True):
            if g == 255:
                continue
            pixels += 1
            right += p == g
            if p == g:
                tp[g] += 1
            else:
                fp[p] += 1
                fn[g] += 1
    ious = []
    for c in range(classes):
        union = tp[c] + fp[c] + fn[c]
        if union:
            ious.append(tp[c] / union)
        elif absent == "zero":
            ious.append(0.0)
    return dict(mIoU=100 * sum(ious) / len(ious), aAcc=100 * right / pixels, images=counted)


# Image 1: labels 0 0 1 1 2 and one ignored pixel, predictions 0 1 1 1 1 (2).
# Image 2: labels 2 0, predictions 2 0. Over both images:
#   class 0: TP 2, predicted 2, labelled 3 -> IoU 2/3
#   class 1: TP 2, predicted 4, labelled 2 -> IoU 2/4
#   class 2: TP 1, predicted 1 (the one on the ignored pixel does not count), labelled 2 -> 1/2
#   class 3: nowhere
_BY_HAND = [
    (np.array([[0, 1, 1], [1, 1, 2]]), np.array([[0, 0, 1], [1, 2, 255]])),
    (np.array([[2, 0]]), np.array([[2, 0]])),
]


@pytest.mark.parametrize(
    ("absent", "mean"), [("skip", (2 / 3 + 1 / 2 + 1 / 2) / 3), ("zero", (2 / 3 + 1) / 4)]
)
def test_by_hand(absent: str, mean: float) -> None:
    metric = SegmentationMetric("semseg", num_classes=4, absent=absent)
    results = _evaluate(metric, [_sample(*image) for image in _BY_HAND])
    single = {f"semseg/IoU/{i}": 100 * iou for i, iou in enumerate((2 / 3, 1 / 2, 1 / 2))}
    single |= {f"semseg/Acc/{i}": 100 * share for i, share in enumerate((2 / 3, 1, 1 / 2))}
    if absent == "zero":
        single |= {"semseg/IoU/3": 0, "semseg/Acc/3": 0}
    accuracy = (2 / 3 + 1 + 1 / 2) / (3 if absent == "skip" else 4)
    assert results == pytest.approx(
        {
            "semseg/mIoU": 100 * mean,
            "semseg/aAcc": 100 * 5 / 7,
            "semseg/mAcc": 100 * accuracy,
            "semseg/absent_classes": 1,
            "semseg/images": 2,
            **single,
        }
    )


def test_absent_classes_are_only_named_if_there_are_any() -> None:
    results = _evaluate(SegmentationMetric("semseg", 3), [_sample(*image) for image in _BY_HAND])
    of_set = {key for key in results if not is_of_class(key)}
    assert of_set == {"semseg/mIoU", "semseg/aAcc", "semseg/mAcc", "semseg/images"}


def test_images_without_a_person_are_skipped() -> None:
    person = (np.array([[1, 2, 0]]), np.array([[1, 1, 0]]))
    samples = [
        _sample(*person, "human_parts"),
        _sample([[1, 2, 2]], [[0, 0, 255]], "human_parts"),
        _sample([[1, 1, 1]], [[255, 255, 255]], "human_parts"),
        _sample([[1, 1, 1]], None, "human_parts"),
    ]
    # The first image alone: IoU of 0, 1, 2 is 1, 1/2 and 0.
    skipping = SegmentationMetric("human_parts", 3, skip_background=True)
    results = _evaluate(skipping, samples)
    assert results["human_parts/mIoU"] == pytest.approx(50)
    assert results["human_parts/images"] == 1
    # With the second image: IoU of 0 is 1/3 (two background pixels are predicted 1 and 2; the
    # third is ignored), of 1 it is 1/3, of 2 it is 0.
    results = _evaluate(SegmentationMetric("human_parts", 3), samples)
    assert results["human_parts/mIoU"] == pytest.approx(100 * (1 / 3 + 1 / 3) / 3)
    assert results["human_parts/images"] == 2


@pytest.mark.parametrize("batch", [1, 2, 5])
@pytest.mark.parametrize("absent", ["skip", "zero"])
@pytest.mark.parametrize("skip_background", [False, True])
def test_equals_pixel_loops(batch: int, absent: str, skip_background: bool) -> None:
    images = _images(seed=1, classes=4)
    images[1][1][images[1][1] != 255] = 0
    # Two classes of six never occur. Batches of 2 leave a last batch of one image.
    metric = SegmentationMetric("semseg", 6, skip_background=skip_background, absent=absent)
    results = _evaluate(metric, [_sample(*image) for image in images], batch)
    for name, value in _naive(images, 6, skip_background, absent).items():
        assert results[f"semseg/{name}"] == pytest.approx(value, abs=1e-6), name


def test_equals_mmseg() -> None:
    images = _images(seed=2, classes=5, missing=())
    theirs = IoUMetric()
    theirs.dataset_meta = dict(classes=[str(i) for i in range(6)])  # class 5 never occurs
    for prediction, label in images:
        prediction, label = (torch.from_numpy(x)[None] for x in (prediction, label))
        theirs.process({}, [dict(pred_sem_seg=dict(data=prediction), gt_sem_seg=dict(data=label))])
    # `evaluate` rounds to two digits, so its parts are called instead.
    areas = [sum(area) for area in zip(*theirs.results, strict=True)]
    iou = IoUMetric.total_area_to_metrics(*areas, metrics=["mIoU"])
    results = _evaluate(SegmentationMetric("semseg", 6), [_sample(*image) for image in images])
    assert results["semseg/mIoU"] == pytest.approx(100 * np.nanmean(iou["IoU"]), abs=1e-4)
    assert results["semseg/aAcc"] == pytest.approx(100 * float(iou["aAcc"]), abs=1e-4)
    assert theirs.evaluate(len(images))["mIoU"] == pytest.approx(results["semseg/mIoU"], abs=0.006)


@pytest.mark.parametrize(("absent", "nan_to_num"), [("skip", None), ("zero", 0)])
def test_dice_and_f_score_equal_mmsegs(absent: str, nan_to_num: int | None) -> None:
    images = _images(seed=3, classes=5, missing=())
    images = [(np.where(p == 1, 2, p), g) for p, g in images]  # class 1 is never predicted
    theirs = IoUMetric()
    theirs.dataset_meta = dict(classes=[str(i) for i in range(6)])
    for pair in images:
        prediction, label = (torch.from_numpy(x)[None] for x in pair)
        theirs.process({}, [dict(pred_sem_seg=dict(data=prediction), gt_sem_seg=dict(data=label))])
    areas = [sum(area) for area in zip(*theirs.results, strict=True)]
    asked = ["mIoU", "mDice", "mFscore"]
    expected = IoUMetric.total_area_to_metrics(*areas, metrics=asked, nan_to_num=nan_to_num)
    metric = SegmentationMetric("semseg", 6, absent=absent, iou_metrics=asked)
    metric.dataset_meta = dict(semseg=dict(classes=("a", "b", "c", "d", "e", "f")))
    results = _evaluate(metric, [_sample(*image) for image in images])
    expected.pop("aAcc")
    assert len(expected) == 6
    for name, values in expected.items():
        assert results[f"semseg/m{name}"] == pytest.approx(100 * np.nanmean(values), abs=1e-4)
        for letter, value in zip("abcdef", values, strict=True):
            key = f"semseg/{name}/{letter}"
            assert (key in results) == (not np.isnan(value))
            assert results.get(key, 0) == pytest.approx(100 * np.nan_to_num(value), abs=1e-4)


def test_nothing_right_is_a_score_of_0() -> None:
    metric = SegmentationMetric("semseg", 2, iou_metrics="mFscore")
    results = _evaluate(metric, [_sample([[0, 1]], [[1, 0]])])
    assert results["semseg/mFscore"] == 0  # mmseg's mean over nothing would be NaN
    assert not any(np.isnan(value) for value in results.values())


@pytest.mark.parametrize("wrong", [["mIou"], "dice", 3])
def test_unknown_iou_metrics(wrong: object) -> None:
    with pytest.raises(InputError, match="semseg: `iou_metrics` must be among"):
        SegmentationMetric("semseg", 2, iou_metrics=wrong)


def test_the_table_has_one_line_per_class() -> None:
    table = class_table(["sky", "tree"], dict(IoU=np.array([np.nan, 2]), Acc=np.ones(2)))
    assert table.splitlines() == [
        "+-------+------+------+",
        "| Class | IoU  | Acc  |",
        "+-------+------+------+",
        "|  sky  | nan  | 1.00 |",
        "|  tree | 2.00 | 1.00 |",
        "+-------+------+------+",
    ]


def test_the_table_shows_dice_without_a_further_result() -> None:
    metric = SegmentationMetric("semseg", 2)
    with mock.patch("vmt_mm.evaluation.iou.print_log") as log:
        results = _evaluate(metric, [_sample([[0, 0, 1]], [[0, 1, 1]])])
    said = log.call_args.args[0]
    assert said.startswith("semseg, per class results:\n+")
    rows = [line.strip("| ").split(" | ") for line in said.splitlines() if line.startswith("|")]
    assert [[cell.strip() for cell in row] for row in rows] == [
        ["Class", "IoU", "Acc", "Dice"],
        ["0", "50.00", "100.00", "66.67"],
        ["1", "50.00", "50.00", "66.67"],
    ]
    assert not [key for key in results if "Dice" in key]


def test_image_without_valid_pixel_changes_nothing() -> None:
    samples = [_sample(*image) for image in _BY_HAND]
    blank = _sample([[3, 3]], [[255, 255]])
    with_blank = _evaluate(SegmentationMetric("semseg", 4), [samples[0], blank, samples[1]])
    without = _evaluate(SegmentationMetric("semseg", 4), samples)
    assert with_blank == without


@pytest.mark.parametrize("skip_background", [False, True])
@pytest.mark.parametrize("label", [[[255, 255]], None])
def test_set_without_valid_pixel_reports_no_score(
    skip_background: bool, label: list | None
) -> None:
    metric = SegmentationMetric("semseg", 3, skip_background=skip_background)
    with mock.patch("vmt_mm.evaluation.task_metric.print_log") as log:
        results = _evaluate(metric, [_sample([[0, 1]], label)])
    assert results == {}
    assert "task 'semseg': mIoU is not reported: none of 1 image(s)" in log.call_args.args[0]


@pytest.mark.parametrize("value", [4, 254])
def test_label_out_of_range(value: int) -> None:
    metric = SegmentationMetric("human_parts", 4)
    with pytest.raises(InputError, match=rf"human_parts.*\b{value}\b"):
        metric.process(None, [_sample([[0, 1]], [[1, value]], "human_parts")])


def test_unknown_absent() -> None:
    with pytest.raises(InputError, match="semseg.*'none'"):
        SegmentationMetric("semseg", 3, absent="none")


def test_results_are_reset_between_evaluations() -> None:
    metric = SegmentationMetric("semseg", 4)
    first = _evaluate(metric, [_sample(*_BY_HAND[0])])
    _evaluate(metric, [_sample(*_BY_HAND[1])])
    assert _evaluate(metric, [_sample(*_BY_HAND[0])]) == first
