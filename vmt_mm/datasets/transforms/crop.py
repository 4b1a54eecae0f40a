"""Random crops that move every label with the image."""

from __future__ import annotations

from collections.abc import Sequence

import mmseg.datasets.transforms
import numpy as np

from vmt_mm.datasets.transforms.geometry import map_labels, mark_moved
from vmt_mm.errors import InputError
from vmt_mm.registry import TRANSFORMS

#: Boxes that are tried before one with too much of one class is taken.
_TRIES = 10


@TRANSFORMS.register_module()
class RandomCrop(mmseg.datasets.transforms.RandomCrop):
    """mmseg's ``RandomCrop``, for all labels.

    Args:
        crop_size: (height, width), or one number for both, as in mmseg.
        cat_max_ratio: a box where one class has this share of the labelled pixels or more, or
            where there is but one class, is drawn again, up to ten times.
        size: (width, height) in place of ``crop_size``, in the order of the other transforms.
        cat_tasks: the tasks whose classes ``cat_max_ratio`` looks at; None looks at all that have
            classes. Where background is most of every image, as in parts of people, a task should
            be left out. Tasks that a data set does not have are passed over, so that one pipeline
            serves any subset of the tasks.

    Raises:
        InputError: if not one of both sizes is given, the ratio is not in 0..1, or a task has no
            classes.
    """

    unread = dict(ignore_index="each label knows the value that it ignores")

    def __init__(
        self,
        crop_size: int | Sequence[int] | None = None,
        cat_max_ratio: float = 1.0,
        size: Sequence[int] | None = None,
        cat_tasks: Sequence[str] | None = None,
    ) -> None:
        if (crop_size is None) == (size is None):
            raise InputError(
                "RandomCrop takes crop_size (height, width) or size (width, height), got "
                f"crop_size={crop_size!r} and size={size!r}"
            )
        if not 0 < cat_max_ratio <= 1:
            raise InputError(f"RandomCrop: cat_max_ratio must be in (0, 1], got {cat_max_ratio}")
        if size is not None:
            crop_size = tuple(size[::-1])
        elif not isinstance(crop_size, int):
            crop_size = tuple(crop_size)
        super().__init__(crop_size, cat_max_ratio)
        self.cat_tasks = None if cat_tasks is None else tuple(cat_tasks)

    def transform(self, results: dict) -> dict:
        """Crop the image and its labels."""
        before = results["img"].shape
        box = self._choose_box(results)
        results["img"] = self.crop(results["img"], box)
        results["img_shape"] = results["img"].shape[:2]
        map_labels(results, lambda _, label: self.crop(label, box), before)
        return mark_moved(results)

    def _choose_box(self, results: dict) -> tuple[int, int, int, int]:
        height, width = results["img"].shape[:2]
        for _ in range(_TRIES):
            top = np.random.randint(max(height - self.crop_size[0], 0) + 1)
            left = np.random.randint(max(width - self.crop_size[1], 0) + 1)
            box = (top, top + self.crop_size[0], left, left + self.crop_size[1])
            if self.cat_max_ratio >= 1 or self._is_varied(results, box):
                break
        return box

    def _is_varied(self, results: dict, box: tuple[int, int, int, int]) -> bool:
        specs, labels = results.get("label_specs", {}), results.get("labels", {})
        with_classes = [task for task, spec in specs.items() if spec.categorical]
        chosen = with_classes if self.cat_tasks is None else self.cat_tasks
        if wrong := [task for task in chosen if task in specs and task not in with_classes]:
            raise InputError(
                f"RandomCrop: cat_tasks {wrong} have no classes; tasks with classes are "
                f"{with_classes}"
            )
        for task in labels.keys() & set(chosen):
            crop = self.crop(labels[task], box)
            counts = np.bincount(crop[crop != specs[task].fill])
            if (counts > 0).sum() < 2 or counts.max() / counts.sum() >= self.cat_max_ratio:
                return False
        return True
