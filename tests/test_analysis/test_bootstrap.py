"""Intervals of a difference of mean IoU."""

import cv2
import numpy as np
import pytest
from commands import CONFIG

from vmt_mm.analysis.bootstrap import compare, count_pixels
from vmt_mm.errors import InputError
from vmt_mm.tasks import build_tasks

TASK = build_tasks(dict(parts=dict(type="Segmentation", num_classes=4)))["parts"]


def naive_mean_iou(predictions, labels, classes):
    ious = []
    for c in classes:
        inter = sum(((p == c) & (g == c)).sum() for p, g in zip(predictions, labels, strict=True))
        union = sum((((p == c) | (g == c)) & (g != 255)).sum()
                    for p, g in zip(predictions, labels, strict=True))  # fmt: skip
        if union:
            ious.append(inter / union)
    return 100 * np.mean(ious)


def make(seed=0, images=12, noise=(0.2, 0.6)):
    """Labels, and predictions of two methods of which the second has more errors."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 3, (images, 6, 5)).astype(np.uint8)
    labels[:2, 0] = 3  # a rare class
    labels[:, 5] = 255
    methods = []
    for share in noise:
        wrong = rng.random(labels.shape) < share
        methods.append(np.where(wrong, rng.integers(0, 4, labels.shape), labels).astype(np.uint8))
        methods[-1][labels == 255] = 0
    return labels, methods


def write(folder, arrays):
    folder.mkdir(parents=True)
    for number, array in enumerate(arrays):
        cv2.imwrite(str(folder / f"{number:02d}.png"), array)
    return folder


def counts_of(tmp_path, labels, methods):
    folder = write(tmp_path / "labels", labels)
    return [
        count_pixels(TASK, folder, write(tmp_path / f"out{n}", method))
        for n, method in enumerate(methods)
    ]


def test_values_are_the_mean_ious_of_the_classes_that_count(tmp_path):
    labels, methods = make()
    first, second = counts_of(tmp_path, labels, methods)
    result = compare([[first], [second]], min_images=8, samples=200, seed=0)
    assert result["classes"] == [0, 1, 2]
    assert result["images"] == len(labels)
    expected = [naive_mean_iou(method, labels, (0, 1, 2)) for method in methods]
    assert result["first"] == pytest.approx(expected[0])
    assert result["second"] == pytest.approx(expected[1])
    assert result["low"] < result["value"] < result["high"]
    assert result["low"] > 0


def test_the_interval_is_that_of_resampled_images(tmp_path):
    labels, methods = make(images=9)
    counts = counts_of(tmp_path, labels, methods)
    result = compare([counts[:1], counts[1:]], min_images=1, samples=2000, seed=1)
    rng, naive = np.random.default_rng(7), []
    for _ in range(2000):
        drawn = rng.integers(0, 9, 9)
        naive.append(
            np.subtract(*(naive_mean_iou(m[drawn], labels[drawn], range(4)) for m in methods))
        )
    low, high = np.quantile(naive, [0.025, 0.975])
    assert result["low"] == pytest.approx(low, abs=1.2)
    assert result["high"] == pytest.approx(high, abs=1.2)


def test_trainings_are_averaged_and_a_method_equals_itself(tmp_path):
    labels, methods = make()
    a, b = counts_of(tmp_path, labels, methods)
    alone = [compare([[x], [b]], 1, 50, 0)["first"] for x in (a, b)]
    assert compare([[a, b], [b]], 1, 50, 0)["first"] == pytest.approx(np.mean(alone))
    same = compare([[a], [a]], 1, 50, 0)
    assert (same["value"], same["low"], same["high"]) == (0, 0, 0)


def test_wrong_input_is_one_message(tmp_path):
    labels, methods = make()
    first, _ = counts_of(tmp_path, labels, methods)
    with pytest.raises(InputError, match="no class occurs in at least 13"):
        compare([[first], [first]], 13, 10, 0)
    other = {key: value[:5] for key, value in first.items()}
    with pytest.raises(InputError, match="must be of the same images"):
        compare([[first], [other]], 1, 10, 0)
    with pytest.raises(InputError, match="contains no prediction"):
        count_pixels(TASK, tmp_path / "labels", tmp_path / "none")
    small = write(tmp_path / "small", [methods[0][0][:3]])
    with pytest.raises(InputError, match=r"00.png: has size \(3, 5\), its label has \(6, 5\)"):
        count_pixels(TASK, tmp_path / "labels", small)
    unlabelled = write(tmp_path / "unlabelled", [np.full((6, 5), 255, np.uint8)])
    with pytest.raises(InputError, match="no labelled pixel in 1 file"):
        count_pixels(TASK, unlabelled, tmp_path / "out0")


def test_the_command(run_tool, tmp_path):
    labels, methods = make()
    write(tmp_path / "data/human_parts", labels)
    folders = [write(tmp_path / f"run{n}/human_parts", m).parent for n, m in enumerate(methods)]
    command = ("tools/analysis_tools/bootstrap.py", CONFIG, "--task")
    output = run_tool(
        *command, "human_parts", "--first", folders[0], "--second", folders[1], "--min-images", 8,
        "--samples", 100, "--json", tmp_path / "result.json",
        "--cfg-options", f"data_root={tmp_path}/data",
    )  # fmt: skip
    assert "human_parts, 3 classes in 8 or more of 12 images" in output.out
    assert (tmp_path / "result.json").exists()
    output = run_tool(*command, "normals", "--first", "a", "--second", "b", code=1)
    assert "--task must be a segmentation task of" in output.err
