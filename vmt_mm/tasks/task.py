"""The contract of a dense task: everything that one output of the model means.

A new kind of task is one subclass of :class:`Task`, registered in ``TASKS``, and one line in a
config. Letters: N images, C channels, H, W height and width in pixels.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from math import inf
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from vmt_mm.errors import InputError
from vmt_mm.registry import METRICS, TASKS
from vmt_mm.tasks.labels import LabelSpec
from vmt_mm.tasks.warps import Geometry, Warp


class Task:
    """One dense prediction task.

    A subclass with settings of the label sets ``label`` before it calls this constructor.

    Args:
        name: key of the task in configs, folders (``<root>/<name>/``), losses and metrics.
        loss_weight: factor of the loss in the sum over tasks.
        suffix: how names of label files end after the image's id, such as '_mask.png'.
    """

    label: LabelSpec
    out_channels: int  # of the head's output
    #: Metric of ``metric()`` that represents the task in Delta; None while it has none.
    primary_metric: str | None = None
    has_lines: ClassVar[bool] = False  # whether ``draw`` shows bright lines of one pixel
    #: Evaluation protocol -> arguments of the task that it sets where a config does not.
    protocol_options: ClassVar[Mapping[str, Mapping]] = {}

    def __init__(self, name: str, loss_weight: float = 1.0, suffix: str | None = None) -> None:
        if not name.isidentifier():
            raise InputError(f"task name {name!r} must be a valid identifier")
        if not isinstance(loss_weight, (int, float)) or not 0 <= loss_weight < inf:
            raise InputError(f"loss_weight must be a number, 0 or more, got {loss_weight!r}")
        self.name = name
        self.loss_weight = float(loss_weight)
        if suffix is not None:
            if not isinstance(suffix, str) or "/" in suffix or not Path(f"id{suffix}").suffix:
                raise InputError(f"suffix must be how the names of labels end, got {suffix!r}")
            self.label = copy.copy(self.label)
            self.label.suffixes = (suffix,)

    def describe_output(self) -> str:
        """What the head's output is, in words; tasks that differ in it cannot share a head."""
        return f"{type(self).__name__} with {self.out_channels} channels"

    def loss(self, logits: Tensor, target: Tensor) -> Tensor:
        """Unweighted loss of logits (N, C, H, W) float32 and labels (N, c, H, W), a scalar.

        Without a valid pixel it is 0 and attached to the graph, for distributed training.
        """
        raise NotImplementedError

    def to_prediction(self, logits: Tensor) -> Tensor:
        """Turn logits (N, C, H, W) into values comparable with labels, (N, c, H, W)."""
        raise NotImplementedError

    def to_scores(self, logits: Tensor) -> Tensor:
        """What is averaged where a pixel is predicted several times, (N, K, H, W) float."""
        return logits

    def from_scores(self, scores: Tensor) -> Tensor:
        """Turn a mean of :meth:`to_scores` into a prediction, (N, c, H, W)."""
        return self.to_prediction(scores)

    def flip_scores(self, scores: Tensor) -> Tensor:
        """Mirror scores (N, K, H, W) left and right; values, or their classes, follow."""
        flip = Geometry.of([Warp(flip=True)], scores.device)
        mirrored = scores.flip(-1)
        if not self.label.categorical:
            return self.label.transform_values(mirrored, flip)
        classes = torch.arange(scores.shape[1], dtype=torch.uint8, device=scores.device)
        moved = self.label.transform_values(classes[None, None, None], flip).flatten()
        return torch.empty_like(mirrored).index_copy_(1, moved.long(), mirrored)

    def metric(self) -> dict | None:
        """Config of the task's metric; None if it has none."""
        return None

    @property
    def higher_is_better(self) -> bool | None:
        """Whether more of the primary metric is better; None where its metric does not say it."""
        kind = (self.metric() or {}).get("type")
        kind = METRICS.get(kind) if isinstance(kind, str) else kind
        direction = (getattr(kind, "directions", None) or {}).get(self.primary_metric)
        return None if direction is None else direction == "greater"

    def draw(self, values: np.ndarray, meta: Mapping) -> np.ndarray:
        """Draw a label or a prediction (c, H, W) as RGB (H, W, 3), uint8, by its metainfo."""
        raise NotImplementedError

    def legend(self, values: np.ndarray, meta: Mapping) -> list[tuple[str, tuple[int, int, int]]]:
        """Names and RGB colours that explain what ``draw`` shows for these values."""
        return []

    def check_metainfo(self, meta: Mapping, source: str) -> None:
        """Raise InputError if the metainfo of the dataset ``source`` contradicts this task."""


def build_tasks(cfgs: Mapping[str, Mapping | Task]) -> dict[str, Task]:
    """Build the tasks of a config, ``name -> dict(type=..., ...)``, in its order."""
    if not isinstance(cfgs, Mapping) or not cfgs:
        raise InputError(f"`tasks` must map names to task configs and hold at least one: {cfgs!r}")
    tasks = {}
    for name, cfg in cfgs.items():
        if isinstance(cfg, Task):
            tasks[name] = cfg
            continue
        kind = cfg.get("type") if isinstance(cfg, Mapping) else None
        if kind is None or (isinstance(kind, str) and TASKS.get(kind) is None):
            known = ", ".join(sorted(TASKS.module_dict))
            raise InputError(f"task {name!r}: unknown type {kind!r}; known: {known}")
        try:
            tasks[name] = TASKS.build(dict(cfg), default_args=dict(name=name))
        except InputError as error:
            raise InputError(f"{name}: {error}") from None
    return tasks
