"""What happens to a batch on the model's device before the model sees it.

Letters: N images, h, w height and width of sources, H, W of the network's input, in pixels.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from mmengine.model import ImgDataPreprocessor
from torch import Tensor

from vmt_mm.errors import InputError
from vmt_mm.registry import MODELS
from vmt_mm.structures import DeferredWarp, MultiTaskDataSample
from vmt_mm.tasks import BatchWarp
from vmt_mm.tasks.warps import framed


@MODELS.register_module()
class MultiTaskDataPreprocessor(ImgDataPreprocessor):
    """MMEngine's ``ImgDataPreprocessor`` that also does the warps which a pipeline left to it.

    See :class:`~vmt_mm.datasets.transforms.RandomWarp` with ``on_device``. Without such warps it
    does what mmengine's does.

    Args:
        kwargs: see ``mmengine.model.ImgDataPreprocessor``; with ``non_blocking`` the training does
            not wait while a batch is copied to the device from pinned memory.

    Raises:
        InputError: if warps are left to it in a test, if some images of a batch have none, or if
            the warps of a batch differ in the size of the output or in the fill.
    """

    def forward(self, data: Mapping[str, Any], training: bool = False) -> dict[str, Any]:
        """Copy a batch to the device, warp, normalise, and stack.

        Args:
            data: ``inputs``: images (3, h, w), and ``data_samples``: their samples.
            training: whether a training asks.

        Returns:
            ``inputs`` (N, 3, H, W) and ``data_samples``.
        """
        waiting = [DeferredWarp.key in sample for sample in data.get("data_samples") or ()]
        if not any(waiting):
            return super().forward(data, training)
        if not training or not all(waiting):
            raise InputError(
                "RandomWarp(on_device=True) belongs in training pipelines, and in those of all "
                "data sets of a training or of none"
            )
        data = self.cast_data(data)  # samples are new objects from here on
        images = _warp_batch(data["inputs"], data["data_samples"])
        batch = super().forward({**data, "inputs": images, "data_samples": None}, training)
        return {**batch, "data_samples": data["data_samples"]}


def _warp_batch(images: Sequence[Tensor], samples: Sequence[MultiTaskDataSample]) -> Tensor:
    """Do the samples' warps: replace labels, return the images (N, 3, H, W).

    Images of whole numbers stay whole, as they do on the CPU.
    """
    records: list[DeferredWarp] = [sample.pop(DeferredWarp.key) for sample in samples]
    kinds = {(record.warp.size, tuple(record.fill)) for record in records}
    if len(kinds) > 1:
        raise InputError(
            "the RandomWarp(on_device=True) of all data sets of a training must have one size and "
            f"one fill, got (height, width) and fill of {sorted(kinds)}"
        )
    (size, fill), device = kinds.pop(), images[0].device
    maps: dict[tuple[int, ...], BatchWarp] = {}

    def map_of(rows: tuple[int, ...]) -> BatchWarp:
        if rows not in maps:
            chosen = [records[row] for row in rows]
            maps[rows] = BatchWarp([r.warp for r in chosen], [r.source for r in chosen], device)
        return maps[rows]

    stack = framed(images, fill)
    warped = map_of(tuple(range(len(records)))).linear(stack)
    for (task, _), rows in _groups(records).items():
        spec = records[rows[0]].specs[task]
        labels = framed([samples[row].label(task) for row in rows], spec.fill)
        for row, label in zip(rows, spec.warp_batch(labels, map_of(rows)), strict=True):
            samples[row].set_label(task, label)
    for sample in samples:
        sample.set_metainfo(dict(img_shape=size, label_shape=size, pad_shape=size))
    return warped if stack.is_floating_point() else warped.round_()


def _groups(
    records: Sequence[DeferredWarp],
) -> dict[tuple[str, tuple[str, str]], tuple[int, ...]]:
    """(Task, identity of its spec) -> the rows whose labels are warped together.

    Data sets of one training may label a task in different ways.
    """
    rows = defaultdict(list)
    for row, record in enumerate(records):
        for task, spec in record.specs.items():
            rows[task, spec.identity].append(row)
    return {key: tuple(own) for key, own in rows.items()}
