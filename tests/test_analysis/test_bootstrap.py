"""Intervals of a difference of a metric."""

import cv2
import numpy as np
import pytest
from commands import CONFIG

from vmt_mm.analysis.bootstrap import compare, measure_files
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
        measure_files(TASK, folder, write(tmp_path / f"out{n}", method))
        for n, method in enumerate(methods)
    ]


def test_values_are_the_mean_ious_of_the_classes_that_count(tmp_path):
    labels, methods = make()
    first, second = counts_of(tmp_path, labels, methods)
    result = compare(TASK, [[first], [second]], min_images=8, samples=200)
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
    result = compare(TASK, [counts[:1], counts[1:]], samples=2000, seed=1)
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
    alone = [compare(TASK, [[x], [b]], samples=50)["first"] for x in (a, b)]
    both = compare(TASK, [[a, b], [b]], samples=50)
    assert both["first"] == pytest.approx(np.mean(alone))
    same = compare(TASK, [[a], [a]], samples=50)
    assert (same["value"], same["low"], same["high"]) == (0, 0, 0)


def test_wrong_input_is_one_message(tmp_path):
    labels, methods = make()
    first, _ = counts_of(tmp_path, labels, methods)
    with pytest.raises(InputError, match="no class occurs in at least 13"):
        compare(TASK, [[first], [first]], min_images=13)
    other = {name: first[name] for name in list(first)[:5]}
    with pytest.raises(InputError, match="must be of the same images"):
        compare(TASK, [[first], [other]])
    with pytest.raises(InputError, match=r"parts has no result 'rmse'; it has mIoU, aAcc"):
        compare(TASK, [[first], [first]], "rmse")
    with pytest.raises(InputError, match="contains no prediction"):
        measure_files(TASK, tmp_path / "labels", tmp_path / "none")
    small = write(tmp_path / "small", [methods[0][0][:3]])
    with pytest.raises(InputError, match=r"00.png: has size \(3, 5\), its label has \(6, 5\)"):
        measure_files(TASK, tmp_path / "labels", small)
    unlabelled = write(tmp_path / "unlabelled", [np.full((6, 5), 255, np.uint8)])
    with pytest.raises(InputError, match="no labelled pixel in 1 file"):
        measure_files(TASK, unlabelled, tmp_path / "out0")


def test_other_tasks_are_measured_like_the_test(tmp_path):
    """Depth within its limits, normals, and edges, whose files hold probabilities."""
    tasks = build_tasks(
        dict(depth=dict(type="Depth", max_depth=10.0), normals=dict(type="Normals"),
             edge=dict(type="Edge", tolerance=0.1))
    )  # fmt: skip
    rng = np.random.default_rng(0)
    metres = rng.uniform(1, 12, (3, 8, 9))
    guesses = metres * rng.uniform(0.8, 1.2, metres.shape)
    edges, sure = np.zeros((3, 8, 9), np.uint8), np.zeros((3, 8, 9), np.uint8)
    edges[:, 4], sure[:, 4] = 255, 100  # found at the thresholds below 100 / 255
    to_camera = np.full((3, 8, 9, 3), (255, 128, 128), np.uint8)  # OpenCV's order of channels
    half_right = to_camera.copy()
    half_right[:, :4] = (128, 128, 255)
    content = dict(
        depth=(np.uint16(1000 * metres), np.uint16(1000 * guesses)),
        normals=(to_camera, half_right),
        edge=(edges, sure),
    )
    found = {}
    for name, (labels, guess) in content.items():
        folder = write(tmp_path / f"labels/{name}", labels)
        counts = measure_files(tasks[name], folder, write(tmp_path / f"out/{name}", guess))
        found[name] = compare(tasks[name], [[counts], [counts]], samples=20)["first"]
    g, p = (x / 1000 for x in content["depth"])
    errors = (np.minimum(p, 10) - g)[g < 10]
    assert found["depth"] == pytest.approx(np.sqrt(np.mean(errors**2)), rel=1e-5)
    assert found["normals"] == pytest.approx(45, abs=0.5)
    assert found["edge"] == 100


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
    assert "human_parts/mIoU, 3 classes in 8 or more of 12 images" in output.out
    assert (tmp_path / "result.json").exists()
    output = run_tool(*command, "flow", "--first", "a", "--second", "b", code=1)
    assert "--task must be a task of" in output.err
