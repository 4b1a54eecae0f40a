"""The contract of a dense task: everything that one output of the model means.

A new kind of task is one subclass of :class:`Task`, registered in ``TASKS``, and one line in a
config. Letters: N images, C channels, H, W height and width in pixels.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from math import inf
from typing import ClassVar

import numpy as np
import torch
from mmengine.registry import build_from_cfg
from torch import Tensor

from vmt_mm.errors import InputError
from vmt_mm.registry import METRICS, TASKS
from vmt_mm.tasks.labels import LabelSpec, channels_first


class Task:
    """One dense prediction task.

    A subclass with settings of the label sets ``label`` before it calls this constructor.

    Args:
        name: key of the task in configs, folders (``<root>/<name>/``), losses and metrics.
        loss_weight: factor of the loss in the sum over tasks.
        suffix: how the names of label files end after the image's id, such as '_mask.png'; None
            takes any ending of ``label.suffixes``.
    """

    #: Format of the label files and their behaviour under geometry.
    label: LabelSpec
    #: Channels of the head's output.
    out_channels: int
    #: Metric of ``metric()`` that stands for the task in Delta; None while it has none.
    primary_metric: str | None = None
    #: Whether ``draw`` shows bright lines of one pixel, to be kept where it is shown smaller.
    has_lines: ClassVar[bool] = False
    #: Evaluation protocol -> arguments of the task that it sets where a config does not.
    protocol_options: ClassVar[Mapping[str, Mapping]] = {}

    def __init__(self, name: str, loss_weight: float = 1.0, suffix: str | None = None) -> None:
        if not name.isidentifier():
            raise InputError(f"task name {name!r} must be a valid identifier")
        if not isinstance(loss_weight, (int, float)) or not 0 <= loss_weight < inf:
            raise InputError(
                f"{name}: loss_weight must be a number, 0 or more, got {loss_weight!r}"
            )
        self.name = name
        self.loss_weight = float(loss_weight)
        if suffix is not None:
            with of_task(name):
                self.label = self.label.ending_with(suffix)

    def describe_output(self) -> str:
        """What the head's output is, in words; tasks that differ in it cannot share a head."""
        return f"{type(self).__name__} with {self.out_channels} channels"

    def loss(self, logits: Tensor, target: Tensor) -> Tensor:
        """Unweighted loss.

        Args:
            logits: (N, C, H, W) float32, at the label's size.
            target: (N, c, H, W), the labels as ``label.to_tensor`` gives them.

        Returns:
            A scalar; where no pixel is valid, 0 that stays attached to the graph, so that
            distributed training sees a gradient for every parameter.
        """
        raise NotImplementedError

    def to_prediction(self, logits: Tensor) -> Tensor:
        """Turn logits (N, C, H, W) into values comparable with labels, (N, c, H, W)."""
        raise NotImplementedError

    def to_scores(self, logits: Tensor) -> Tensor:
        """What is averaged where a pixel is predicted several times, (N, K, H, W) float.

        By default the logits. A task whose prediction is a mean of something else says what.
        """
        return logits

    def from_scores(self, scores: Tensor) -> Tensor:
        """Turn a mean of :meth:`to_scores` into a prediction, (N, c, H, W)."""
        return self.to_prediction(scores)

    def flip_scores(self, scores: Tensor) -> Tensor:
        """Mirror scores (N, K, H, W) left and right, and let values follow as a label's do.

        Scores of classes change places where the label says that a flip changes the class.
        """
        flip = self.label.flip
        if self.label.categorical:
            classes = np.arange(scores.shape[1], dtype=np.uint8)[None, ::-1]
            mirrored = torch.empty_like(scores)
            mirrored[:, flip(classes)[0].tolist()] = scores.flip(-1)
            return mirrored
        turned = [
            flip(image if scores.shape[1] > 1 else image[..., 0])
            for image in scores.permute(0, 2, 3, 1).cpu().numpy()
        ]
        stacked = np.stack([channels_first(image) for image in turned])
        return torch.from_numpy(stacked).to(scores)

    def metric(self) -> dict | None:
        """Config of the task's metric; None if it has none."""
        return None

    @property
    def higher_is_better(self) -> bool | None:
        """Whether more of the primary metric is better; None where its metric does not declare it.

        The metric's class owns this, in its ``directions``.
        """
        kind = (self.metric() or {}).get("type")
        kind = METRICS.get(kind) if isinstance(kind, str) else kind
        direction = (getattr(kind, "directions", None) or {}).get(self.primary_metric)
        return None if direction is None else direction == "greater"

    def draw(self, values: np.ndarray, meta: Mapping) -> np.ndarray:
        """Draw a label or a prediction.

        Args:
            values: (c, H, W).
            meta: the dataset's metainfo of this task (``classes``, ``palette``), may be empty.

        Returns:
            RGB image (H, W, 3), uint8.
        """
        raise NotImplementedError

    def legend(self, values: np.ndarray, meta: Mapping) -> list[tuple[str, tuple[int, int, int]]]:
        """Names and RGB colours that explain what ``draw`` shows for these values."""
        return []

    def check_metainfo(self, meta: Mapping, source: str) -> None:
        """Raise InputError if the metainfo of the dataset ``source`` contradicts this task."""


@contextmanager
def of_task(name: str) -> Iterator[None]:
    """Let an InputError of a label's settings say of which task they are."""
    try:
        yield
    except InputError as error:
        raise InputError(f"{name}: {error}") from None


def build_tasks(cfgs: Mapping[str, Mapping | Task]) -> dict[str, Task]:
    """Build the tasks of a config, ``name -> dict(type=..., ...)``, in its order.

    Raises:
        InputError: if there is none or a type is unknown.
    """
    if not isinstance(cfgs, Mapping) or not cfgs:
        raise InputError(f"`tasks` must map names to task configs and hold one at least: {cfgs!r}")
    tasks = {}
    for name, cfg in cfgs.items():
        if isinstance(cfg, Task):
            tasks[name] = cfg
            continue
        kind = cfg.get("type") if isinstance(cfg, Mapping) else None
        if kind is None or (isinstance(kind, str) and TASKS.get(kind) is None):
            known = ", ".join(sorted(TASKS.module_dict))
            raise InputError(f"task {name!r}: unknown type {kind!r}; known: {known}")
        tasks[name] = build_from_cfg(dict(cfg), TASKS, default_args=dict(name=name))
    return tasks
