"""Test-time augmentation: average what a model makes of several versions of an image.

Letters: C channels, H, W height and width in pixels.
"""

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
from vmt_mm.tasks import Task


@MODELS.register_module()
class MultiTaskTTAModel(BaseTTAModel):
    """Predicts from the mean over flipped and resized versions of each image.

    What is averaged is the task's to say (``Task.to_scores``): probabilities, unit vectors, metres.
    So are the values after a flip: ``Task.flip_scores`` turns them back.

    Args:
        module: the model, or its config.
        data_preprocessor: see ``mmengine.model.BaseTTAModel``.
    """

    module: Any

    def __init__(self, module: Any, data_preprocessor: Any = None) -> None:
        with own_scope():
            super().__init__(module, data_preprocessor)

    @torch.no_grad()
    def test_step(self, data: Mapping[str, Sequence[Any]]) -> list[MultiTaskDataSample]:
        """Predict images of which the pipeline's ``TestTimeAug`` made several versions.

        Args:
            data: ``inputs`` and ``data_samples``: for every version a list of images.
        """
        tasks: Mapping[str, Task] = self.module.tasks
        count = len(next(iter(data.values())))
        versions = [{key: values[i] for key, values in data.items()} for i in range(count)]
        sums: list[dict[str, Tensor]] = []
        samples: list[MultiTaskDataSample] = []
        for version in versions:
            batch = self.module.data_preprocessor(version, False)
            samples = samples or list(batch["data_samples"])
            sums = sums or [{} for _ in samples]
            _check_zoom(tasks, samples, batch["data_samples"])
            for name, index, logits in self.module.final_logits(**batch):
                scores = tasks[name].to_scores(logits)
                if batch["data_samples"][index].get("flip"):
                    scores = tasks[name].flip_scores(scores)
                sums[index][name] = sums[index].get(name, 0) + scores
        for sample, of_image in zip(samples, sums, strict=True):
            for name, total in of_image.items():
                prediction = tasks[name].from_scores(total / count)
                sample.set_prediction(name, prediction[0])
        return samples

    def merge_preds(self, data_samples_list: Sequence) -> list[MultiTaskDataSample]:
        """Nothing: :meth:`test_step` adds versions up, so that it need not keep them all."""
        raise NotImplementedError("MultiTaskTTAModel averages scores, not predictions")


def _check_zoom(
    tasks: Mapping[str, Task],
    first: Sequence[MultiTaskDataSample],
    others: Sequence[MultiTaskDataSample],
) -> None:
    """Refuse versions of other sizes where a zoom changes a task's values."""
    sizes = [[tuple(s.get("img_shape", ())[:2]) for s in group] for group in (first, others)]
    if sizes[0] == sizes[1]:
        return
    for name, task in tasks.items():
        ones = np.ones((1, 1, task.out_channels), np.float32)
        if not task.label.categorical and (task.label.zoom_values(ones, 2.0) != ones).any():
            raise InputError(
                f"test-time augmentation: values of task {name!r} change with a zoom, so versions "
                "of other sizes cannot be averaged; take flips alone"
            )
