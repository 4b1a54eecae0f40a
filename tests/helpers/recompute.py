"""Metrics of protocol A from files alone: `python recompute.py DATA PREDICTIONS [--max-depth 10]`.

Reads the labels and the predictions that `tools/test.py --out` wrote, by one or several processes,
with Pillow and NumPy alone, and follows the definitions one image at a time. The edge loss is left
out, since 8 bits cannot store small probabilities. Edges take seconds per 100 x 100 pixels; leave
them out with `--tasks semseg depth normals`.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
from naive_edges import naive_boundary_scores
from PIL import Image

Pair = tuple[np.ndarray, np.ndarray]


def _pairs(data: Path, out: Path, task: str) -> Iterator[Pair]:
    """(prediction, label) of every validation image with a label."""
    for i in (data / "splits/val.txt").read_text().split():
        label = data / task / f"{i}.png"
        if label.exists():
            yield np.array(Image.open(out / task / f"{i}.png")), np.array(Image.open(label))


def classes(pairs: Iterable[Pair], skip_background: bool = False) -> dict[str, float]:
    """Mean IoU over classes that occur, and the share of correct pixels, in percent."""
    both, either, pixels, images = np.zeros(255, int), np.zeros(255, int), 0, 0
    for p, g in pairs:
        if skip_background and not set(np.unique(g)) - {0, 255}:
            continue
        p, g = p[g != 255], g[g != 255]
        images, pixels = images + 1, pixels + g.size
        for c in set(np.unique(p)) | set(np.unique(g)):
            both[c] += ((p == c) & (g == c)).sum()
            either[c] += ((p == c) | (g == c)).sum()
    occurs = either > 0
    scores = both[occurs] / either[occurs]
    return dict(mIoU=100 * scores.mean(), aAcc=100 * both.sum() / pixels, images=images)


def saliency(pairs: Iterable[Pair]) -> dict[str, float]:
    """Best mean Jaccard and best F of mean precision and recall, in percent."""
    images = []  # (thresholds, 3) each
    for v, label in pairs:
        rows = []
        for k in range(15):
            # of the probabilities that round to v, the share above the threshold
            p, g = np.clip(v + 0.5 - 255 * (0.2 + 0.05 * k), 0, 1), label > 127
            both, predicted, labelled = p[g].sum(), p.sum(), g.sum()
            either = predicted + labelled - both
            rows.append([both / n if n else 1 for n in (either, predicted, labelled)])
        images.append(rows)
    jaccards, precisions, recalls = np.mean(images, axis=0).T
    scores = 2 * precisions * recalls / (precisions + recalls)
    return dict(mIoU=100 * max(jaccards), maxF=100 * max(scores), images=len(images))


def normals(pairs: Iterable[Pair]) -> dict[str, float]:
    """Mean, median, RMSE in degrees, shares in percent, over the pixels of all images."""
    total = squares = images = 0.0
    within, hundredths = np.zeros(3), np.zeros(18001)  # pixels by hundredths of a degree
    for p, g in pairs:
        valid = g.any(axis=-1)
        p, g = (2 * v[valid].astype(np.float64) / 255 - 1 for v in (p, g))
        cosine = (p * g).sum(1) / np.linalg.norm(p, axis=1) / np.linalg.norm(g, axis=1)
        angle = np.degrees(np.arccos(np.clip(cosine, -1, 1)))
        total, squares = total + angle.sum(), squares + (angle**2).sum()
        within += [(angle < a).sum() for a in (11.25, 22.5, 30)]
        hundredths += np.bincount(np.rint(100 * angle).astype(int), minlength=18001)
        images += valid.any()
    pixels = hundredths.sum()
    median = np.flatnonzero(hundredths.cumsum() >= pixels / 2)[0] / 100
    names = ("within_11.25", "within_22.5", "within_30")
    shares = dict(zip(names, 100 * within / pixels, strict=True))
    errors = dict(mErr=total / pixels, median=median, rmse=np.sqrt(squares / pixels))
    return dict(errors, images=images, **shares)


def depth(pairs: Iterable[Pair], most: float = np.inf) -> dict[str, float]:
    """RMSE in metres, relative error, shares in percent, over the pixels of all images.

    Labels below ``most`` metres count, and predictions are cut there. SILog is a mean over images;
    aligned errors scale each image by median(g) / median(p).
    """
    sums = dict.fromkeys(("squares", "relative", "log10", "a_squares", "a_relative"), 0.0)
    within, pixels, logs = np.zeros(3), 0, []
    for p, g in pairs:
        valid = (g > 0) & (g / 1000 < most)
        if not valid.any():
            continue
        raw, g = p[valid] / 1000, g[valid] / 1000
        aligned = np.minimum(raw * np.median(g) / max(np.median(raw), 1e-3), most)
        p = np.minimum(raw, most)
        pixels += g.size
        sums["squares"] += ((p - g) ** 2).sum()
        sums["relative"] += (np.abs(p - g) / g).sum()
        sums["log10"] += np.abs(np.log10(np.maximum(p, 1e-3) / g)).sum()
        sums["a_squares"] += ((aligned - g) ** 2).sum()
        sums["a_relative"] += (np.abs(aligned - g) / g).sum()
        ratio = np.maximum(p / g, g / np.maximum(p, 1e-9))
        within += [(ratio < 1.25**k).sum() for k in (1, 2, 3)]
        logs.append(100 * np.std(np.log(np.maximum(p, 1e-3) / g)))
    mean = {name: value / pixels for name, value in sums.items()}
    return dict(
        rmse=np.sqrt(mean["squares"]), abs_rel=mean["relative"], log10=mean["log10"],
        silog=np.mean(logs), aligned_rmse=np.sqrt(mean["a_squares"]),
        aligned_abs_rel=mean["a_relative"], images=len(logs),
        **{f"delta_{k}": 100 * within[k - 1] / pixels for k in (1, 2, 3)},
    )  # fmt: skip


def edges(pairs: Iterable[Pair], tolerance: float = 0.0075) -> dict[str, float]:
    """Boundary F-score at the best threshold, its precision and recall, in percent."""
    images = [(v, np.uint8(g > 127)) for v, g in pairs]
    return dict(naive_boundary_scores(images, tolerance), images=len(images))


def recompute(
    data: Path, out: Path, tasks: Sequence[str] | None = None, max_depth: float = np.inf,
    tolerance: float = 0.0075,
) -> dict[str, float]:  # fmt: skip
    """Metrics of the tasks, by default all that have predictions, named as in ``metrics.json``."""
    functions = dict(
        semseg=classes,
        human_parts=lambda pairs: classes(pairs, skip_background=True),
        saliency=saliency,
        normals=normals,
        edge=lambda pairs: edges(pairs, tolerance),
        depth=lambda pairs: depth(pairs, max_depth),
    )
    return {
        f"{task}/{name}": float(value)
        for task, function in functions.items()
        if (task in tasks if tasks else (out / task).is_dir())
        for name, value in function(_pairs(data, out, task)).items()
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--tasks", nargs="+")
    parser.add_argument("--max-depth", type=float, default=np.inf)
    parser.add_argument("--tolerance", type=float, default=0.0075)
    print(json.dumps(recompute(**vars(parser.parse_args())), indent=2))
