"""One backbone, one head per task. Notation: B images, C channels, H, W in pixels."""

from __future__ import annotations

import operator
from collections.abc import Iterator, Mapping, Sequence
from functools import partial, reduce
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from mmengine.dist import all_reduce, get_world_size
from mmengine.model import BaseModel, ModuleDict
from torch import Tensor, nn

from vmt_mm.checkpoints.keys import task_of_keys
from vmt_mm.errors import InputError
from vmt_mm.models.eager_backward import eager_loss
from vmt_mm.models.feature_cache import build_feature_cache
from vmt_mm.models.heads import build_head
from vmt_mm.models.new_tasks import check_new_tasks, freeze_existing_tasks
from vmt_mm.models.sliding import parse_test_cfg, slide
from vmt_mm.registry import MODELS, own_scope
from vmt_mm.structures import DeferredWarp, MultiTaskDataSample
from vmt_mm.tasks import Task, build_tasks
from vmt_mm.utils.feature_maps import Map, as_tensor, resize, tensors_of
from vmt_mm.utils.modules import eval_mode
from vmt_mm.weighting import FixedWeighting, GradientAggregation, build_weighting


@MODELS.register_module()
class MultiTaskSegmentor(BaseModel):
    """Multi-task model for dense prediction: one backbone, and one head per task.

    >>> model = MODELS.build(load_config("configs/vmt/vmt_swin-nano_shapes.py").model)
    >>> model.init_weights()
    >>> model(images, tasks=["semseg"])["semseg"]  # (B, 3, H, W) -> logits (B, C, H / 4, W / 4)

    Calls in training and in testing::

        loss()               objective of the weighting
          task_losses()      backbone: images -> four maps per task
            eager_loss()     for each task: the calls below, then their backward pass
              _task_loss()   loss of the task, at the size of the images
                _run_head()  head: four maps -> logits (B, C, H / 4, W / 4)

        predict()          logits -> predictions of each task
          final_logits()   removes padding; logits at the size of each image's labels
            logits()       backbone and heads, on full images or, with slide(), on windows

    Args:
        tasks: task name -> config of the task.
        backbone: config of the backbone.
        head: config of the heads.
        task_heads: task name -> config of a head that replaces ``head`` for this task.
        test_cfg: ``dict(tasks=[...])`` predicts only these tasks; ``dict(mode='slide',
            crop_size=(h, w), stride=(h, w))`` averages logits over sliding windows, ``crop_batch``
            windows at a time. By default, images are not cut into windows.
        new_tasks: tasks added to a trained model; only their parameters are trained.
        feature_cache: dict of the ``folder`` and ``limit`` of a
            :class:`~vmt_mm.models.feature_cache.FeatureCache`, for training; None means no cache.
        eager_backward: run each head's backward pass before the next head, to save memory.
        weighting: config of the :class:`~vmt_mm.weighting.Weighting`; by default, losses are added.
    """

    #: Arguments of mmseg's models that are refused -> what to use.
    unread: ClassVar[Mapping[str, str]] = dict(
        decode_head="set `head` for all tasks, or `task_heads` for one",
        auxiliary_head="auxiliary losses are not supported",
        neck="heads get the four feature maps of the backbone",
        train_cfg="set the top-level `train_cfg`",
        pretrained="set the top-level `pretrained` or model.backbone.pretrained",
    )

    #: Shares of the labels, see :meth:`task_losses`, of the next batch; the training loop sets them
    #: with gradient accumulation.
    update_shares: Mapping[str, float] | None = None

    def __init__(
        self,
        tasks: Mapping[str, Mapping],
        backbone: Mapping,
        head: Mapping,
        task_heads: Mapping[str, Mapping] | None = None,
        data_preprocessor: dict | None = None,
        test_cfg: Mapping | None = None,
        init_cfg: dict | None = None,
        new_tasks: Sequence[str] | None = None,
        feature_cache: Mapping | None = None,
        eager_backward: bool = True,
        weighting: Mapping | None = None,
    ) -> None:
        with own_scope():
            super().__init__(data_preprocessor, init_cfg)
        self.tasks = build_tasks(tasks)
        names = list(self.tasks)
        self.backbone: Any = MODELS.build(dict(backbone), default_args=dict(tasks=names))
        if set(others := self.backbone.task_names) != set(names):
            rule = f"model.backbone.tasks must equal the model's tasks {names}, got {list(others)}"
            raise InputError(f"{rule}; remove `tasks` from model.backbone")
        task_heads = dict(task_heads or {})
        if unknown := sorted(set(task_heads) - set(names)):
            raise InputError(f"`task_heads` has unknown task(s) {unknown}; known: {names}")
        channels = self.backbone.out_channels
        self.heads = ModuleDict(
            {
                name: build_head(task_heads.get(name, head), channels, task.out_channels)
                for name, task in self.tasks.items()
            }
        )
        self.eager_backward = eager_backward
        self.feature_cache = build_feature_cache(feature_cache, self.backbone, backbone)
        self.window = parse_test_cfg(test_cfg)
        self.test_tasks = (test_cfg or {}).get("tasks")
        self.backbone.select_tasks(self.test_tasks)
        self.new_tasks = check_new_tasks(new_tasks, self.tasks)
        #: Names of the parameters that would be trained without `new_tasks`.
        self.previously_trainable: frozenset[str] = frozenset()
        if self.new_tasks:
            if self.backbone.peft.couples_tasks:
                kind = type(self.backbone.peft).__name__
                problem = f"with {kind} as configured, a new task changes the existing ones"
                raise InputError(f"`new_tasks`: {problem}; train all tasks together")
            self.previously_trainable = freeze_existing_tasks(self, self.new_tasks)
            self.train()  # put frozen heads in eval mode even before training sets the mode
        self.weighting = build_weighting(weighting, list(self.trained_tasks))
        if isinstance(self.weighting, GradientAggregation):
            self.weighting.prepare(self.backbone)

    @property
    def trained_tasks(self) -> dict[str, Task]:
        """The tasks that training runs, in order: the new tasks, or all without any."""
        wanted = self.new_tasks or self.tasks
        return {name: task for name, task in self.tasks.items() if name in wanted}

    def train(self, mode: bool = True) -> nn.Module:
        """Set the mode; the heads of tasks that are not trained stay in eval mode."""
        super().train(mode)
        for name in self.tasks.keys() - self.trained_tasks.keys():
            self.heads[name].eval()
        return self

    def forward(
        self,
        inputs: Tensor,
        data_samples: list[MultiTaskDataSample] | None = None,
        mode: str = "tensor",
        tasks: Sequence[str] | None = None,
    ) -> dict[str, Tensor] | list[MultiTaskDataSample]:
        """Run on normalised images (B, 3, H, W) in one of mmengine's modes.

        'tensor' returns :meth:`logits`, 'loss' :meth:`loss`, 'predict' :meth:`predict`. Only the
        heads of ``tasks`` run; None runs all, in mode 'loss' all that are trained.
        """
        if mode == "tensor":
            return self.logits(inputs, tasks)
        if mode == "loss":
            return self.loss(inputs, data_samples or [], tasks)
        if mode == "predict":
            return self.predict(inputs, data_samples, tasks)
        raise ValueError(f"mode must be 'tensor', 'loss' or 'predict', got {mode!r}")

    def logits(self, inputs: Tensor, tasks: Sequence[str] | None = None) -> dict[str, Tensor]:
        """Return the logits (B, C, h, w) of each task, at the resolution of its head."""
        features = self.backbone(inputs, tasks, lazy=True)
        return {name: self._run_head(name, maps) for name, maps in features.items()}

    def _run_head(self, name: str, maps: Sequence[Map]) -> Tensor:
        """Return the logits (B, C, h, w) of a task."""
        head = self.heads[name]
        if not getattr(head, "accepts_lazy", False):
            maps = tuple(as_tensor(x) for x in maps)
        logits = head(maps)
        if not isinstance(logits, Tensor):
            kind = type(head).__name__
            raise InputError(f"the head of task {name!r}, {kind}, must return one tensor")
        return logits

    def loss(
        self,
        inputs: Tensor,
        data_samples: Sequence[MultiTaskDataSample],
        tasks: Sequence[str] | None = None,
    ) -> dict[str, Tensor]:
        """Return ``loss_<task>``, see :meth:`task_losses`; their sum is the objective.

        ``<task>.<name>`` are the terms, without graph, if a task has several losses.
        In training with another weighting than the sum, ``loss`` is the objective, and the others
        are for the log: ``loss_<task>``, and the weights ``weight_<task>``.
        """
        weighting, maps = self.weighting, None
        method = weighting if isinstance(weighting, GradientAggregation) and self.training else None
        if method:
            method.prepare(self.backbone)  # again: it may be compiled now
        if method and method.on == "features":
            (maps,) = self.backbone(inputs, list(self.trained_tasks)[:1], lazy=True).values()
        terms: dict[str, Tensor] = {}
        losses, shares = self.task_losses(inputs, data_samples, tasks, maps, terms)
        named = {f"loss_{name}": loss for name, loss in losses.items()}
        if isinstance(weighting, FixedWeighting) or not self.training:
            return named | terms
        names, zero = weighting.tasks, inputs.new_zeros((), dtype=torch.float32)
        values, own = (torch.stack([x.get(n, zero) for n in names]) for x in (losses, shares))
        sums = torch.stack([values.detach(), own])
        all_reduce(sums)
        objective, weights = weighting(sums[0] / sums[1].clamp(min=1e-8), sums[1] > 0)
        weight, total = dict(zip(names, weights, strict=True)), (weights * values).sum()
        if method:
            of_maps = [x for level in maps or () for x in tensors_of(level)]
            sources = self.backbone.parameters() if maps is None else of_maps
            tensors = [*sources, *self.heads.parameters()]
            tensors = [x for x in tensors if x.requires_grad]
            tasks_of = task_of_keys(dict(self.named_parameters()), self.tasks)
            owner = {id(p): tasks_of.get(n) for n, p in self.named_parameters()}
            owners = [owner.get(id(x)) for x in tensors]
            total, weight = method.aggregate(losses, sums[1] > 0, tensors, owners)
        total = total + (objective - total).detach()
        for_log = {name: loss.detach() for name, loss in named.items()} | terms
        return dict(loss=total, **for_log, **{f"weight_{n}": w for n, w in weight.items()})

    def parse_losses(self, losses: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the objective of :meth:`loss`, and the values for the log."""
        return (losses["loss"], losses) if "loss" in losses else super().parse_losses(losses)

    def task_losses(
        self,
        inputs: Tensor,
        data_samples: Sequence[MultiTaskDataSample],
        tasks: Sequence[str] | None = None,
        shared: Sequence[Map] | None = None,
        terms: dict[str, Tensor] | None = None,
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Return the loss of each task times its ``loss_weight``, and the shares of the labels.

        The backbone runs unless feature maps that all tasks share are given. Adds the terms of
        tasks with several losses to ``terms``.

        A loss is the mean over the labelled pixels of this batch, times their number relative to
        the mean number over all processes and, with gradient accumulation, all batches of the
        update: the share. So losses and gradients are those of one large batch. Without labels, a
        loss is 0 but still attached to the graph, so that distributed training gets a gradient for
        every parameter in every process.
        """
        if any(DeferredWarp.key in sample for sample in data_samples):
            raise InputError(
                "RandomWarp(on_device=True) needs "
                "model.data_preprocessor.type=MultiTaskDataPreprocessor, which applies the warps"
            )
        names = list(self.trained_tasks) if tasks is None else list(tasks)
        size = inputs.shape[2:]
        labels = {name: _stack_labels(self.tasks[name], data_samples, size) for name in names}
        shares = self._shares(labels, inputs.device)
        losses, frozen, terms = {}, None, {} if terms is None else terms
        if shared is not None:
            features = dict.fromkeys(names, shared)
        else:
            if self.feature_cache is not None:
                frozen = self.feature_cache.get(inputs, self.backbone.frozen_maps)
            features = self.backbone(inputs, names, lazy=True, frozen=frozen)
        for name in list(features):
            maps = features.pop(name)  # free each task's maps after its loss
            run = partial(self._task_loss, name, *labels.pop(name), shares[name], terms)
            head = self.heads[name]
            losses[name] = eager_loss(head, maps, run) if self.eager_backward else run(maps)
        return losses, shares

    def _shares(self, labels: Mapping[str, _Labels], device: torch.device) -> dict[str, Tensor]:
        """Return the number of this batch's labelled pixels of each task over the mean number."""
        zero = torch.zeros((), device=device)
        if self.update_shares is not None:
            return {name: zero + self.update_shares[name] for name in labels}
        counts = {
            name: zero if target is None else self.tasks[name].loss_count(target)
            for name, (_, target) in labels.items()
        }
        if not self.training or get_world_size() == 1:
            return {name: (count > 0).float() for name, count in counts.items()}
        own = torch.stack([*counts.values()]).float()
        mean = own.clone()
        all_reduce(mean, "mean")
        return dict(zip(labels, own / mean.clamp(min=1e-8), strict=True))

    def _task_loss(
        self,
        name: str,
        rows: Sequence[int],
        target: Tensor | None,
        share: Tensor,
        terms: dict[str, Tensor],
        maps: Sequence[Map],
    ) -> Tensor:
        """Return the weighted loss of a task, on the rows of the batch that have a label."""
        task, logits = self.tasks[name], self._run_head(name, maps)
        several = len(task.losses) > 1
        if target is None:
            parts = dict.fromkeys(task.losses if several else [name], logits.float().sum() * 0)
        else:
            logits = logits[rows] if len(rows) < len(logits) else logits
            x = resize(logits.float(), target.shape[2:])
            parts = task.loss_terms(x, target) if several else {name: task.loss(x, target)}
        parts = {part: value * (task.loss_weight * share) for part, value in parts.items()}
        if several:
            terms.update((f"{name}.{part}", value.detach()) for part, value in parts.items())
        return reduce(operator.add, parts.values())

    @torch.no_grad()
    def predict(
        self,
        inputs: Tensor,
        data_samples: list[MultiTaskDataSample] | None = None,
        tasks: Sequence[str] | None = None,
    ) -> list[MultiTaskDataSample]:
        """Set ``pred_<task>`` (c, H, W) of each sample, at the size of its labels or original."""
        if data_samples is None:
            data_samples = [MultiTaskDataSample() for _ in range(len(inputs))]
        for name, index, logits in self.final_logits(inputs, data_samples, tasks):
            data_samples[index].set_prediction(name, self.tasks[name].to_prediction(logits)[0])
        return data_samples

    @torch.no_grad()
    def final_logits(
        self,
        inputs: Tensor,
        data_samples: Sequence[MultiTaskDataSample],
        tasks: Sequence[str] | None = None,
    ) -> Iterator[tuple[str, int, Tensor]]:
        """Yield task name, image index, and logits (1, C, H, W) at the size of the image's labels.

        Removes the padding of the batch first, so that a prediction does not depend on the other
        images. Runs images of equal size together, in eval mode.
        """
        size = tuple(inputs.shape[2:])
        shapes = [tuple(sample.get("img_shape", size)[:2]) for sample in data_samples]
        # sliding windows also exclude the padding of the pipeline
        sizes = shapes if self.window else [self._size_alone(s, size) for s in data_samples]
        tasks = self.test_tasks if tasks is None else tasks
        for height, width in dict.fromkeys(sizes):
            same = [index for index, own in enumerate(sizes) if own == (height, width)]
            alike = len(same) == len(inputs) and (height, width) == size
            images = inputs if alike else inputs[same, :, :height, :width].contiguous()
            with eval_mode(self):
                if self.window is None:
                    found = self.logits(images, tasks)
                else:
                    found = slide(partial(self.logits, tasks=tasks), images, self.window)
                for name, logits in found.items():
                    logits = resize(logits.float(), images.shape[2:])
                    for index, row in zip(same, logits, strict=True):
                        sample, (bottom, right) = data_samples[index], shapes[index]
                        target = sample.get("label_shape", sample.get("ori_shape", size))[:2]
                        yield name, index, resize(row[None, :, :bottom, :right], target)

    def _size_alone(self, sample: MultiTaskDataSample, size: Sequence[int]) -> tuple[int, int]:
        """Return the height and width of a batch of this image alone, at most ``size``."""
        own = sample.get("pad_shape", sample.get("img_shape", size))[:2]
        unit = getattr(self.data_preprocessor, "pad_size_divisor", 1)
        height, width = (min(-(-a // unit) * unit, b) for a, b in zip(own, size, strict=True))
        return height, width


#: Indices of the images that have a label, and these labels (N, c, H, W); None without any.
_Labels = tuple[list[int], Tensor | None]


def _stack_labels(
    task: Task, samples: Sequence[MultiTaskDataSample], size: Sequence[int]
) -> _Labels:
    """Stack labels (c, h, w) to (N, c, H, W); padded pixels get the fill value of the label."""
    rows, padded = [], []
    for row, sample in enumerate(samples):
        label: Any = sample.label(task.name)
        if label is None:
            continue
        height, width = label.shape[1:]
        if (height, width) != tuple(sample.get("img_shape", (height, width))[:2]):
            raise InputError(
                f"{sample.get('img_path')}: the label of task {task.name!r} is {(height, width)}, "
                f"the image {sample.get('img_shape')}; in training, put LoadLabels before Resize"
            )
        bottom, right = size[0] - height, size[1] - width
        rows.append(row)
        padded.append(F.pad(label, (0, right, 0, bottom), value=task.label.fill))
    return rows, torch.stack(padded) if padded else None
