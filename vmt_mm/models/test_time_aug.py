"""Test-time augmentation: average what a model makes of several versions of an image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from mmengine.model import BaseTTAModel
from torch import Tensor

from vmt_mm.errors import InputError
from vmt_mm.registry import MODELS, own_scope
from vmt_mm.structures import MultiTaskDataSample
from vmt_mm.tasks import Task, Warp


@MODELS.register_module()
class MultiTaskTTAModel(BaseTTAModel):
    """Predicts from the mean over flipped and resized versions of each image.

    The task says what is averaged (``Task.to_scores``: probabilities, unit vectors, metres), and
    how values change by a flip (``Task.flip_scores``). ``module`` is the model, or its config.
    """

    module: Any

    def __init__(self, module: Any, data_preprocessor: Any = None) -> None:
        with own_scope():
            super().__init__(module, data_preprocessor)

    @torch.no_grad()
    def test_step(self, data: Mapping[str, Sequence[Any]]) -> list[MultiTaskDataSample]:
        """Predict images of which the pipeline's ``TestTimeAug`` made several versions.

        ``data`` has ``inputs`` and ``data_samples``: for every version a list of images.
        """
        tasks: Mapping[str, Task] = self.module.tasks
        count = len(data["inputs"])
        samples: list[MultiTaskDataSample] = []
        sums: list[dict[str, Tensor]] = []
        for number in range(count):
            version = {key: values[number] for key, values in data.items()}
            batch = self.module.data_preprocessor(version, False)
            own = list(batch["data_samples"])
            samples, sums = samples or own, sums or [{} for _ in own]
            if [s.get("img_shape") for s in samples] != [s.get("img_shape") for s in own]:
                _check_zoom(tasks)
            for name, index, logits in self.module.final_logits(**batch):
                scores = tasks[name].to_scores(logits)
                if own[index].get("flip"):
                    scores = tasks[name].flip_scores(scores)
                sums[index][name] = sums[index].get(name, 0) + scores
        for sample, of_image in zip(samples, sums, strict=True):
            for name, total in of_image.items():
                sample.set_prediction(name, tasks[name].from_scores(total / count)[0])
        return samples

    def merge_preds(self, data_samples_list: Sequence) -> list[MultiTaskDataSample]:
        """Not used: :meth:`test_step` adds versions up, so that it need not keep them all."""
        raise NotImplementedError("MultiTaskTTAModel averages scores, not predictions")


def _check_zoom(tasks: Mapping[str, Task]) -> None:
    """Raise InputError where a zoom changes a task's values."""
    for name, task in tasks.items():
        ones = np.ones((1, 1, task.out_channels), np.float32)
        if not task.label.categorical and (task.label.follow(ones, Warp(scale=2.0)) != ones).any():
            raise InputError(
                f"test-time augmentation: values of task {name!r} change with a zoom, so versions "
                "of other sizes cannot be averaged; use flips only"
            )
