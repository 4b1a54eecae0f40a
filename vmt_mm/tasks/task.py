"""The base class of dense tasks: labels, head output, loss, metric and drawing of one output.

To add a kind of task, subclass :class:`Task`, register it in ``TASKS``, and use it in a config.
Notation: N images, C channels of the head, c of labels, H, W height and width in pixels.
"""

import copy
import operator
from collections.abc import Mapping, Sequence
from functools import reduce
from math import inf
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from vmt_mm.errors import InputError
from vmt_mm.registry import METRICS, TASKS
from vmt_mm.tasks.labels import LabelSpec
from vmt_mm.tasks.losses import build_losses
from vmt_mm.tasks.warps import Geometry, Warp
from vmt_mm.utils.layout import leads_outside

#: A picture (h, w, 3), RGB uint8, and texts, centred at (x, y) in shares of its sides. Above and
#: below is space for a line.
Key = tuple[np.ndarray, list[tuple[float, float, str]]]


class Task:
    """Base class of dense prediction tasks.

    Subclasses set ``label`` and ``out_channels`` (before calling this constructor), set
    ``default_loss`` or implement :meth:`loss`, and implement :meth:`to_prediction`, :meth:`draw`,
    and :meth:`metric` with ``primary_metric``.

    Args:
        name: key of the task in configs, losses and metrics.
        loss_weight: weight of the task in the total loss.
        suffix: ending of label files after the image's id, such as '_mask.png'.
        folder: folder of label files, below a dataset's root; None means ``name``.
        loss: config of a loss, or a list of configs, whose sum is weighted by their
            ``loss_weight``; None uses ``default_loss``. See :mod:`vmt_mm.tasks.losses`.

    Example::

        tasks = dict(semseg=dict(type="Segmentation", num_classes=21), edge=dict(type="Edge"))
    """

    label: LabelSpec
    out_channels: int  # of the head
    #: Metric of ``metric()`` that represents the task in Delta; None if there is none.
    primary_metric: str | None = None
    default_loss: Mapping | None = None  # config of the loss, unless ``loss`` is overridden
    #: Content of the labels that losses must fit, a key of ``losses.FITTING``; None: not checked.
    content: ClassVar[str | None] = None
    has_lines: ClassVar[bool] = False  # whether ``draw`` draws bright one-pixel lines
    #: Evaluation protocol -> task arguments that it sets unless the config does.
    protocol_options: ClassVar[Mapping[str, Mapping]] = {}

    def __init__(
        self,
        name: str,
        loss_weight: float = 1.0,
        suffix: str | None = None,
        loss: Mapping | Sequence[Mapping] | None = None,
        folder: str | None = None,
    ) -> None:
        if not name.isidentifier() or hasattr(nn.ModuleDict(), name):
            rule = "must be a valid identifier that is not reserved, like 'items' or 'type'"
            raise InputError(f"task name {name!r} {rule}")
        if not isinstance(loss_weight, (int, float)) or not 0 <= loss_weight < inf:
            raise InputError(f"`loss_weight` must be a number >= 0, got {loss_weight!r}")
        self.name = name
        self.loss_weight = float(loss_weight)
        folder = name if folder is None else folder
        if not isinstance(folder, str) or leads_outside(folder) or not Path(folder).parts:
            raise InputError(f"`folder` must be a folder below the data root, got {folder!r}")
        self.label = copy.copy(self.label)
        self.label.folder = folder
        if suffix is not None:
            if not isinstance(suffix, str) or "/" in suffix or not Path(f"id{suffix}").suffix:
                raise InputError(f"`suffix` must be an ending such as '_mask.png', got {suffix!r}")
            self.label.suffixes = (suffix,)
        if loss is not None and type(self).loss is not Task.loss:
            raise InputError(f"`loss`: {type(self).__name__} defines its own loss; remove `loss`")
        cfg, content = (self.default_loss, None) if loss is None else (loss, self.content)
        #: Name -> weight and loss; empty if ``loss`` is overridden.
        self.losses = {} if cfg is None else build_losses(cfg, content, self.out_channels)
        if len(self.losses) > 1 and "loss" in name:
            raise InputError("a task with several losses must not have 'loss' in its name")

    def describe_output(self) -> str:
        """Describe the head's output; tasks of the same name must have equal descriptions."""
        return f"{type(self).__name__} with {self.out_channels} channels"

    def loss(self, logits: Tensor, target: Tensor) -> Tensor:
        """Return the unweighted loss (scalar) of float32 logits (N, C, H, W), labels (N, c, H, W).

        Without valid pixels it must be 0 and still depend on the logits, for distributed training.
        """
        if not self.losses:
            raise NotImplementedError
        return reduce(operator.add, self.loss_terms(logits, target).values())

    def loss_terms(self, logits: Tensor, target: Tensor) -> dict[str, Tensor]:
        """Return the weighted terms of :meth:`loss`, by the names of the configured losses."""
        valid = self.label.valid(target)
        terms = {name: (w, loss(logits, target, valid)) for name, (w, loss) in self.losses.items()}
        return {name: value if w == 1 else w * value for name, (w, value) in terms.items()}

    def loss_count(self, target: Tensor) -> Tensor:
        """Return the number (scalar) of labelled pixels over which :meth:`loss` is a mean."""
        return self.label.valid(target).sum()

    def to_prediction(self, logits: Tensor) -> Tensor:
        """Convert logits (N, C, H, W) to predictions in the form of labels, (N, c, H, W)."""
        raise NotImplementedError

    def to_scores(self, logits: Tensor) -> Tensor:
        """Convert logits to scores (N, K, H, W), averaged over windows and test-time views."""
        return logits

    def from_scores(self, scores: Tensor) -> Tensor:
        """Convert averaged scores to predictions, (N, c, H, W)."""
        return self.to_prediction(scores)

    def flip_scores(self, scores: Tensor) -> Tensor:
        """Mirror scores (N, K, H, W) horizontally, and update their values or classes."""
        flip = Geometry.of([Warp(flip=True)], scores.device)
        mirrored = scores.flip(-1)
        if not self.label.categorical:
            return self.label.transform_values(mirrored, flip)
        classes = torch.arange(scores.shape[1], dtype=torch.uint8, device=scores.device)
        moved = self.label.transform_values(classes[None, None, None], flip).flatten()
        return torch.empty_like(mirrored).index_copy_(1, moved.long(), mirrored)

    def metric(self) -> dict | None:
        """Return the config of the task's metric; None if it has none."""
        return None

    @property
    def higher_is_better(self) -> bool | None:
        """Whether a higher primary metric is better; None if the metric does not declare it."""
        kind = (self.metric() or {}).get("type")
        kind = METRICS.get(kind) if isinstance(kind, str) else kind
        direction = (getattr(kind, "directions", None) or {}).get(self.primary_metric)
        return None if direction is None else direction == "greater"

    def draw(self, values: np.ndarray, meta: Mapping) -> np.ndarray:
        """Draw a label or prediction (c, H, W) as RGB (H, W, 3), uint8, using its metainfo."""
        raise NotImplementedError

    def legend(self, values: np.ndarray, meta: Mapping) -> list[tuple[str, tuple[int, int, int]]]:
        """Return the legend of ``draw`` for these values: names and RGB colours."""
        return []

    def key(self, meta: Mapping) -> Key | None:
        """Return a picture that explains the colours of ``draw``, if there is one."""
        return None

    def check_metainfo(self, meta: Mapping, source: str) -> None:
        """Raise InputError if the metainfo of the dataset ``source`` contradicts this task."""


def build_tasks(cfgs: Mapping[str, Mapping | Task]) -> dict[str, Task]:
    """Build tasks from configs ``{name: dict(type=..., ...)}``, keeping their order."""
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
