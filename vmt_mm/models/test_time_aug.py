"""Test-time augmentation: average the predictions for several versions of an image."""

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
    """Average predictions over flipped and resized versions of each image.

    The task defines what is averaged (``Task.to_scores``: probabilities, unit vectors, metres), and
    how a flip changes it (``Task.flip_scores``). ``module`` is the model or its config.
    """

    module: Any

    def __init__(self, module: Any, data_preprocessor: Any = None) -> None:
        with own_scope():
            super().__init__(module, data_preprocessor)

    @torch.no_grad()
    def test_step(self, data: Mapping[str, Sequence[Any]]) -> list[MultiTaskDataSample]:
        """Predict images from the versions that ``TestTimeAug`` in the pipeline created.

        ``inputs`` and ``data_samples`` in ``data`` have one list of images per version.
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
        """Not used: :meth:`test_step` sums the scores of versions, to save memory."""
        raise NotImplementedError("MultiTaskTTAModel averages scores, not predictions")


def _check_zoom(tasks: Mapping[str, Task]) -> None:
    """Raise InputError if resizing changes the values of a task."""
    for name, task in tasks.items():
        ones = np.ones((1, 1, task.out_channels), np.float32)
        if not task.label.categorical and (task.label.follow(ones, Warp(scale=2.0)) != ones).any():
            raise InputError(
                f"test-time augmentation: resizing changes the values of task {name!r}, so "
                "versions of different sizes cannot be averaged; use flips only"
            )
