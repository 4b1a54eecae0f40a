"""One encoder, one head per task.

Letters: B images, C channels, H, W height and width in pixels.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import ClassVar

import torch
import torch.nn.functional as F
from mmengine.model import BaseModel, ModuleDict
from torch import Tensor, nn

from vmt_mm.errors import InputError
from vmt_mm.models.eager_backward import loss_of
from vmt_mm.models.feature_cache import FeatureCache
from vmt_mm.models.heads import build_head
from vmt_mm.models.lazy_resize import LazyResize, materialise
from vmt_mm.models.new_tasks import check_new_tasks, freeze_existing_tasks
from vmt_mm.models.sliding import parse_test_cfg, slide
from vmt_mm.registry import MODELS, own_scope
from vmt_mm.structures import DeferredWarp, MultiTaskDataSample
from vmt_mm.tasks import Task, build_tasks
from vmt_mm.utils.modules import eval_mode


@MODELS.register_module()
class MultiTaskSegmentor(BaseModel):
    """Predicts every task of an image: one encoder, a head a task.

    Args:
        tasks: name -> task config.
        backbone: config of the encoder; its ``tasks`` default to the names above.
        head: config of the heads.
        task_heads: task name -> config of that task's head, where it differs.
        data_preprocessor: see ``mmengine.model.BaseModel``.
        test_cfg: ``dict(tasks=[...])`` predicts these tasks alone; ``dict(mode='slide',
            crop_size=(h, w), stride=(h, w))`` averages logits over windows, as mmseg's models do,
            ``crop_batch`` of them at a time. By default whole images are run.
        init_cfg: see ``mmengine.model.BaseModel``.
        feature_cache_bytes: size limit, in bytes, of the cache of frozen features, where only heads
            are trained, see :class:`vmt_mm.models.feature_cache.FeatureCache`; None keeps none.
        eager_backward: differentiate each task's loss before the next head runs, see
            :func:`vmt_mm.models.eager_backward.loss_of`; the values are the same either way.
        new_tasks: names of tasks that join a trained model: only what belongs to them alone
            trains, and only they are run in training; None trains all tasks.

    Attributes:
        previously_trainable: names of the parameters that train only where there are no new tasks.

    Raises:
        InputError: if the names of tasks, encoder and heads do not agree.
    """

    #: What mmseg's models take, and this one does not -> what to use.
    unread: ClassVar[Mapping[str, str]] = dict(
        decode_head="`head` is the head of every task, `task_heads` that of one",
        auxiliary_head="there are no auxiliary losses",
        neck="heads get the four maps of the encoder",
        train_cfg="a training is set up in the top-level `train_cfg`",
        pretrained="the top-level `pretrained` or model.backbone.pretrained is the encoder's file",
    )

    def __init__(
        self,
        tasks: Mapping[str, Mapping],
        backbone: Mapping,
        head: Mapping,
        task_heads: Mapping[str, Mapping] | None = None,
        data_preprocessor: Mapping | None = None,
        test_cfg: Mapping | None = None,
        init_cfg: Mapping | None = None,
        new_tasks: Sequence[str] | None = None,
        feature_cache_bytes: float | None = None,
        eager_backward: bool = True,
    ) -> None:
        with own_scope():
            super().__init__(data_preprocessor, init_cfg)
        self.tasks = build_tasks(tasks)
        self.backbone = MODELS.build(dict(backbone), default_args=dict(tasks=list(self.tasks)))
        if set(self.backbone.task_names) != set(self.tasks):
            raise InputError(
                f"the model's tasks {list(self.tasks)} and its encoder's "
                f"{list(self.backbone.task_names)} differ"
            )
        task_heads = dict(task_heads or {})
        if unknown := sorted(set(task_heads) - set(self.tasks)):
            raise InputError(f"`task_heads` for unknown task(s) {unknown}: {list(self.tasks)}")
        self.heads = ModuleDict(
            {
                name: build_head(
                    task_heads.get(name, head), self.backbone.out_channels, task.out_channels
                )
                for name, task in self.tasks.items()
            }
        )
        self.eager_backward = eager_backward
        keeps = feature_cache_bytes is not None
        self.feature_cache = FeatureCache(feature_cache_bytes, self.backbone) if keeps else None
        self.window = parse_test_cfg(test_cfg)
        self.test_tasks = (test_cfg or {}).get("tasks")
        self.backbone.select_tasks(self.test_tasks)
        self.new_tasks = check_new_tasks(new_tasks, self.tasks)
        self.previously_trainable = frozenset()
        if self.new_tasks:
            self.previously_trainable = freeze_existing_tasks(self, self.new_tasks)
            self.train()  # the mode of what is frozen is right before a training sets it, too

    @property
    def trained_tasks(self) -> dict[str, Task]:
        """The tasks that a training runs, in their order: the new ones, or all."""
        wanted = self.new_tasks or self.tasks
        return {name: task for name, task in self.tasks.items() if name in wanted}

    def train(self, mode: bool = True) -> nn.Module:
        """Set the mode; beside new tasks, the heads of the others stay in eval mode."""
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
        """Run in one of mmengine's modes.

        Args:
            inputs: (B, 3, H, W), normalised.
            data_samples: one an image; their labels in mode 'loss'.
            mode: 'tensor', 'loss' or 'predict'.
            tasks: the tasks to run; None runs all, in mode 'loss' all that train. Heads not asked
                for are not run.

        Returns:
            tensor: task -> logits (B, C, h, w) at the head's resolution.
            loss: ``loss_<task>`` -> weighted loss, a scalar.
            predict: the samples with ``pred_<task>`` at the size of the image's labels.
        """
        if mode == "tensor":
            return self.logits(inputs, tasks)
        if mode == "loss":
            return self.loss(inputs, data_samples, tasks)
        if mode == "predict":
            return self.predict(inputs, data_samples, tasks)
        raise ValueError(f"mode must be 'tensor', 'loss' or 'predict', got {mode!r}")

    def logits(self, inputs: Tensor, tasks: Sequence[str] | None = None) -> dict[str, Tensor]:
        """Task -> logits (B, C, h, w) at the head's resolution."""
        features = self.backbone(inputs, tasks, on_grids=True)
        return {name: self._run_head(name, maps) for name, maps in features.items()}

    def _run_head(self, name: str, maps: Sequence[Tensor | LazyResize]) -> Tensor:
        """Logits of a task, (B, C, h, w)."""
        head = self.heads[name]
        if not getattr(head, "accepts_lazy", False):
            maps = tuple(materialise(x) for x in maps)
        logits = head(maps)
        if not isinstance(logits, Tensor):
            raise InputError(
                f"the head of task {name!r}, {type(head).__name__}, returns no single map of "
                "logits and cannot serve as a task's head"
            )
        return logits

    def loss(
        self,
        inputs: Tensor,
        data_samples: list[MultiTaskDataSample],
        tasks: Sequence[str] | None = None,
    ) -> dict[str, Tensor]:
        """``loss_<task>`` -> weighted loss over the images that have the task's label.

        Without ``tasks``: of those that train.

        Where none has, the loss is 0 and attached to the graph, so that every process of a
        distributed training gets a gradient for every parameter.
        """
        if any(DeferredWarp.key in sample for sample in data_samples):
            raise InputError(
                "RandomWarp(on_device=True) left its warps to the model, but "
                f"{type(self.data_preprocessor).__name__} does none; set "
                "model.data_preprocessor.type=MultiTaskDataPreprocessor"
            )
        losses = {}
        features = self._features(inputs, tasks or list(self.trained_tasks))
        for name in list(features):
            maps = features.pop(name)  # nothing of a task is kept longer than it is needed
            run = partial(self._loss_of_task, name, data_samples, inputs.shape[2:])
            losses[f"loss_{name}"] = (
                loss_of(self.heads[name], maps, run) if self.eager_backward else run(maps)
            )
        return losses

    def _features(
        self, inputs: Tensor, tasks: Sequence[str]
    ) -> dict[str, tuple[Tensor | LazyResize, ...]]:
        """What heads train on."""
        if self.feature_cache is None:
            return self.backbone(inputs, tasks, on_grids=True)
        one = tasks[0]  # they all have the same
        maps = self.feature_cache.of(
            inputs, lambda images: self.backbone(images, [one], on_grids=True)[one]
        )
        return dict.fromkeys(tasks, maps)

    def _loss_of_task(
        self,
        name: str,
        data_samples: list[MultiTaskDataSample],
        size: Sequence[int],
        maps: Sequence[Tensor | LazyResize],
    ) -> Tensor:
        """A task's weighted loss."""
        task, logits = self.tasks[name], self._run_head(name, maps)
        rows = [i for i, sample in enumerate(data_samples) if sample.label(name) is not None]
        if not rows:
            return logits.float().sum() * 0
        target = _stack_labels(task, [data_samples[i] for i in rows], size)
        if len(rows) < len(data_samples):
            logits = logits[rows]
        logits = _resize(logits.float(), target.shape[2:])
        return task.loss(logits, target) * task.loss_weight

    @torch.no_grad()
    def predict(
        self,
        inputs: Tensor,
        data_samples: list[MultiTaskDataSample] | None = None,
        tasks: Sequence[str] | None = None,
    ) -> list[MultiTaskDataSample]:
        """Predict at the size of each image's labels: ``pred_<task>``, (c, H, W).

        Where none were loaded, at the image's original size.
        """
        if data_samples is None:
            data_samples = [MultiTaskDataSample() for _ in range(len(inputs))]
        for name, index, logits in self.final_logits(inputs, data_samples, tasks):
            prediction = self.tasks[name].to_prediction(logits)[0]
            data_samples[index].set_prediction(name, prediction)
        return data_samples

    @torch.no_grad()
    def final_logits(
        self,
        inputs: Tensor,
        data_samples: Sequence[MultiTaskDataSample],
        tasks: Sequence[str] | None = None,
    ) -> Iterator[tuple[str, int, Tensor]]:
        """Yield task, index of an image, and logits (1, C, H, W) at the size of its labels.

        What a batch padded an image with is taken off before the encoder sees it, since it cannot
        tell padding from pixels: so the prediction is that of the image alone. Images of one size
        are run together. The model is in eval mode meanwhile.
        """
        size = tuple(inputs.shape[2:])
        shapes = [tuple(sample.get("img_shape", size)[:2]) for sample in data_samples]
        # windows leave out what the pipeline padded an image with, too
        sizes = shapes if self.window else [self._size_alone(s, size) for s in data_samples]
        tasks = self.test_tasks if tasks is None else tasks
        for height, width in dict.fromkeys(sizes):
            same = [index for index, own in enumerate(sizes) if own == (height, width)]
            alike = len(same) == len(inputs) and (height, width) == size
            images = inputs if alike else inputs[same, :, :height, :width].contiguous()
            with eval_mode(self):
                for name, logits in self._logits_of_images(images, tasks):
                    for index, row in zip(same, logits, strict=True):
                        sample, (bottom, right) = data_samples[index], shapes[index]
                        target = sample.get("label_shape", sample.get("ori_shape", size))[:2]
                        yield name, index, _resize(row[None, :, :bottom, :right], target)

    def _size_alone(self, sample: MultiTaskDataSample, size: tuple[int, int]) -> tuple[int, int]:
        """Height and width that an image has as a batch of its own, of one of this size."""
        own = sample.get("pad_shape", sample.get("img_shape", size))[:2]
        unit = getattr(self.data_preprocessor, "pad_size_divisor", 1)
        height, width = (min(-(-a // unit) * unit, b) for a, b in zip(own, size, strict=True))
        return height, width

    def _logits_of_images(
        self, images: Tensor, tasks: Sequence[str] | None
    ) -> Iterator[tuple[str, Tensor]]:
        """Yield task and logits (N, C, H, W), float32, of images (N, 3, H, W) of one size."""
        if self.window is not None:
            run = partial(self.logits, tasks=tasks)
            yield from slide(run, images, self.window).items()
            return
        for name, logits in self.logits(images, tasks).items():
            yield name, _resize(logits.float(), images.shape[2:])


def _stack_labels(task: Task, samples: list[MultiTaskDataSample], size: Sequence[int]) -> Tensor:
    """Stack labels (c, h, w) to (N, c, H, W); what the batch's padding adds carries no label."""
    padded = []
    for sample in samples:
        label = sample.label(task.name)
        height, width = label.shape[1:]
        if (height, width) != tuple(sample.get("img_shape", (height, width))[:2]):
            raise InputError(
                f"{sample.get('img_path')}: the label of task {task.name!r} has its native size "
                f"{(height, width)}, the image {sample.img_shape}; in a training pipeline "
                "LoadLabels stands before Resize"
            )
        bottom, right = size[0] - height, size[1] - width
        padded.append(F.pad(label, (0, right, 0, bottom), value=task.label.fill))
    return torch.stack(padded)


def _resize(logits: Tensor, size: Sequence[int]) -> Tensor:
    """Resize (B, C, h, w) bilinearly to (H, W)."""
    if tuple(logits.shape[2:]) == tuple(size):
        return logits
    return F.interpolate(logits, size=tuple(size), mode="bilinear", align_corners=False)
