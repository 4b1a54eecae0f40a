"""Two data sets over the small scenes, each with labels of its own."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from small_runs import small_config

#: What the first and the second data set label.
FIRST, SECOND = ("semseg", "human_parts"), ("saliency", "normals")


def halves(
    scenes: Path,
    loader: str = "train_dataloader",
    parts: tuple[tuple[int, int], tuple[int, int]] = ((0, 2), (1, 2)),
    **more: Any,
) -> dict[str, Mapping]:
    """Options of a small run that put two data sets in the place of a loader's one.

    Args:
        scenes: the rendered scenes.
        loader: the data loader.
        parts: what each takes of the scenes.
        more: further arguments of both.
    """
    whole = small_config(scenes)[loader].dataset
    datasets = [
        dict(whole, part=part, tasks={name: whole.tasks[name] for name in names}, **more)
        for part, names in zip(parts, (FIRST, SECOND), strict=True)
    ]
    return {f"{loader}.dataset": dict(_delete_=True, type="ConcatDataset", datasets=datasets)}
