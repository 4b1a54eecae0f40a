"""Metrics of protocol A from files alone: `python recompute.py DATA PREDICTIONS`.

Reads the labels and the predictions that `tools/test.py --out` wrote, with Pillow and NumPy alone,
and follows the definitions one image at a time. The edge loss is left out, since 8 bits cannot
store small probabilities.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
from naive_edges import naive_boundary_scores
from PIL import Image


def _pairs(data: Path, out: Path, task: str) -> list[tuple[np.ndarray, np.ndarray]]:
    """(prediction, label) of every validation image with a label."""
    ids = (data / "splits/val.txt").read_text().split()
    return [
        (np.array(Image.open(out / task / f"{i}.png")), np.array(Image.open(label)))
        for i in ids
        if (label := data / task / f"{i}.png").exists()
    ]


def classes(pairs: list, skip_background: bool = False) -> dict[str, float]:
    """Mean IoU over classes that occur, and the share of correct pixels, in percent."""
    if skip_background:
        pairs = [(p, g) for p, g in pairs if set(np.unique(g)) - {0, 255}]
    p, g = (np.concatenate([pair[i].ravel() for pair in pairs]) for i in (0, 1))
    p, g = p[g != 255], g[g != 255]
    scores = []
    for c in range(255):
        either = ((p == c) | (g == c)).sum()
        if either:
            scores.append(((p == c) & (g == c)).sum() / either)
    return dict(mIoU=100 * np.mean(scores), aAcc=100 * np.mean(p == g), images=len(pairs))


def saliency(pairs: list) -> dict[str, float]:
    """Best mean Jaccard and best F of mean precision and recall, in percent."""
    jaccards, scores = [], []
    for k in range(15):
        rows = []
        for v, label in pairs:
            # of the probabilities that round to v, the share above the threshold
            p, g = np.clip(v + 0.5 - 255 * (0.2 + 0.05 * k), 0, 1), label > 127
            both, predicted, labelled = p[g].sum(), p.sum(), g.sum()
            either = predicted + labelled - both
            rows.append([both / n if n else 1 for n in (either, predicted, labelled)])
        jaccard, precision, recall = np.mean(rows, axis=0)
        jaccards.append(jaccard)
        scores.append(2 * precision * recall / (precision + recall))
    return dict(mIoU=100 * max(jaccards), maxF=100 * max(scores), images=len(pairs))


def normals(pairs: list) -> dict[str, float]:
    """Mean, RMSE in degrees, shares in percent, over the pixels of all images."""
    p, g = (np.concatenate([pair[i].reshape(-1, 3) for pair in pairs]) for i in (0, 1))
    valid = g.any(axis=1)
    p, g = (2 * v[valid].astype(np.float64) / 255 - 1 for v in (p, g))
    cosine = (p * g).sum(1) / np.linalg.norm(p, axis=1) / np.linalg.norm(g, axis=1)
    angle = np.degrees(np.arccos(np.clip(cosine, -1, 1)))
    shares = {f"within_{a:g}": 100 * np.mean(angle < a) for a in (11.25, 22.5, 30)}
    rmse = np.sqrt(np.mean(angle**2))
    return dict(mErr=angle.mean(), median=np.median(angle), rmse=rmse, images=len(pairs), **shares)


def depth(pairs: list) -> dict[str, float]:
    """RMSE in metres, relative error, shares in percent, over the pixels of all images.

    SILog is a mean over images; aligned errors scale each image by median(g) / median(p).
    """
    images = [(p[g > 0] / 1000, g[g > 0] / 1000) for p, g in pairs]
    of_images = [100 * np.std(np.log(np.maximum(p, 1e-3) / g)) for p, g in images]
    aligned = [(p * np.median(g) / max(np.median(p), 1e-3), g) for p, g in images]
    a, _ = (np.concatenate([image[i] for image in aligned]) for i in (0, 1))
    p, g = (np.concatenate([pair[i].ravel() for pair in pairs]) / 1000 for i in (0, 1))
    p, g = p[g > 0], g[g > 0]
    ratio = np.maximum(p / g, g / np.maximum(p, 1e-9))
    shares = {f"delta_{k}": 100 * np.mean(ratio < 1.25**k) for k in (1, 2, 3)}
    errors = dict(rmse=np.sqrt(np.mean((p - g) ** 2)), abs_rel=np.mean(np.abs(p - g) / g))
    errors |= dict(log10=np.mean(np.abs(np.log10(np.maximum(p, 1e-3) / g))))
    errors |= dict(silog=np.mean(of_images), aligned_abs_rel=np.mean(np.abs(a - g) / g))
    errors |= dict(aligned_rmse=np.sqrt(np.mean((a - g) ** 2)))
    return dict(errors, images=len(pairs), **shares)


def edges(pairs: list) -> dict[str, float]:
    """Boundary F-score at the best threshold, its precision and recall, in percent."""
    scores = naive_boundary_scores([(v, np.uint8(g > 127)) for v, g in pairs], 0.0075)
    return dict(scores, images=len(pairs))


def recompute(data: Path, out: Path) -> dict[str, float]:
    """Metrics of every task that has predictions, named as in ``metrics.json``."""
    functions = dict(
        semseg=classes,
        human_parts=lambda pairs: classes(pairs, skip_background=True),
        saliency=saliency,
        normals=normals,
        edge=edges,
        depth=depth,
    )
    return {
        f"{task}/{name}": float(value)
        for task, function in functions.items()
        if (out / task).is_dir()
        for name, value in function(_pairs(data, out, task)).items()
    }


if __name__ == "__main__":
    print(json.dumps(recompute(*map(Path, sys.argv[1:3])), indent=2))
