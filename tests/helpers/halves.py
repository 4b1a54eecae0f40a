"""Two datasets over the small scenes with different labels."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from small_runs import small_config

#: Tasks that the first and the second dataset have labels for.
FIRST, SECOND = ("semseg", "human_parts"), ("saliency", "normals")


def halves(
    scenes: Path,
    loader: str = "train_dataloader",
    parts: tuple[tuple[int, int], tuple[int, int]] = ((0, 2), (1, 2)),
    **more: Any,
) -> dict[str, Mapping]:
    """Options of a small run that replace a loader's dataset with two.

    Args:
        scenes: the rendered scenes.
        loader: the data loader.
        parts: the part (k, n) of the scenes for each.
        more: further arguments of both datasets.
    """
    dataset = small_config(scenes)[loader].dataset
    datasets = [
        dict(dataset, part=part, tasks={name: dataset.tasks[name] for name in names}, **more)
        for part, names in zip(parts, (FIRST, SECOND), strict=True)
    ]
    return {f"{loader}.dataset": dict(_delete_=True, type="ConcatDataset", datasets=datasets)}
