"""Warp and normalise batches, images (N, C, H, W), on the model's device."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from mmengine.logging import print_log
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

    See :class:`~vmt_mm.datasets.transforms.RandomWarp` with ``on_device``. Images may have any
    number of channels; ``mean`` and ``std`` have one value per channel, in the network's order, or
    one for all. A warning says if they do not fit the first batch's values.
    """

    #: What mmseg's preprocessor takes, and this one does not -> what to use.
    unread: ClassVar[Mapping[str, str]] = dict(
        size="images get their size in the pipeline; `pad_size_divisor` pads batches",
        size_divisor="use `pad_size_divisor`",
        pad_val="use `pad_value`",
        seg_pad_val="in labels new pixels are what each task ignores",
        test_cfg="`pad_size_divisor` pads batches of tests as well",
        batch_augments="transforms of the pipeline augment",
    )

    def __init__(self, mean: Any = None, std: Any = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._numbers = _check_numbers(mean=mean, std=std)
        self._enable_normalize = bool(self._numbers)
        for name, values in self._numbers.items():
            self.register_buffer(name, values, persistent=False)
        self._swap = self._channel_conversion
        self._channels = 0

    def forward(self, data: Any, training: bool = False) -> Any:
        """Copy a batch to the device, warp, normalise, and stack.

        ``inputs`` are a list of images (C, h, w) in ``data``, and (N, C, H, W) in the result.
        """
        self._check_images(data["inputs"])
        waiting = [DeferredWarp.key in sample for sample in data.get("data_samples") or ()]
        if not any(waiting):
            return self._normalise(data, training)
        if not training or not all(waiting):
            raise InputError(
                "RandomWarp(on_device=True) belongs in training pipelines, of all data sets of a "
                "training or of none"
            )
        data = self.cast_data(data)  # samples are new objects from here on
        images = _warp_batch(data["inputs"], data["data_samples"])
        batch = self._normalise({**data, "inputs": images, "data_samples": None}, training)
        return {**batch, "data_samples": data["data_samples"]}

    def _normalise(self, data: Any, training: bool) -> Any:
        """What mmengine's class does, for any number of channels."""
        if self._swap and self._channels != 3:
            data = self.cast_data(data)
            order = [2, 1, 0, *range(3, self._channels)]
            data = {**data, "inputs": [image[order] for image in data["inputs"]]}
        return super().forward(data, training)

    def _check_images(self, images: Sequence[Tensor]) -> None:
        """Raise InputError unless images can be normalised; look at the first batch's values."""
        counts = {image.shape[0] for image in images}
        if counts == {self._channels}:
            return
        if len(counts) > 1:
            raise InputError(f"images of {sorted(counts)} channels in one batch; set color_type")
        (channels,) = counts
        known = {len(values) for values in self._numbers.values()} | {1}
        if not known <= {1, channels}:
            raise InputError(
                f"data_preprocessor: mean and std have {max(known)} values, and an image has "
                f"{channels} channel(s); LoadImageFromFile's color_type decides how many"
            )
        if self._swap and channels < 3:
            raise InputError(f"data_preprocessor: bgr_to_rgb is for three channels, not {channels}")
        self._channels = channels
        self._channel_conversion = self._swap and channels == 3  # mmengine's, of three
        if self._numbers and images[0].device.type == "cpu":  # as loaders give them
            warn_of_range(images, **self._numbers)


def _check_numbers(**numbers: Any) -> dict[str, Tensor]:
    """Mean and std as (C, 1, 1) or (1, 1, 1) each; nothing if both are None."""
    if all(values is None for values in numbers.values()):
        return {}
    try:
        found = {name: torch.tensor([*map(float, v)]).float() for name, v in numbers.items()}
        mean, std = torch.broadcast_tensors(found["mean"], found["std"])
        fits = bool(mean.numel() and (mean + std).isfinite().all() and std.min() > 0)
    except (RuntimeError, TypeError, ValueError):
        fits, found = False, {}
    if not fits:
        raise InputError(
            f"data_preprocessor: expected one mean and one std above 0 per channel, got {numbers}"
        )
    return {name: values.view(-1, 1, 1) for name, values in found.items()}


def warn_of_range(images: Sequence[Tensor], mean: Tensor, std: Tensor) -> None:
    """Warn where normalised values of images (C, H, W) are nearly equal or far too large."""
    low = min(float(image.min()) for image in images)
    high = max(float(image.max()) for image in images)
    ends = torch.stack([(low - mean) / std, (high - mean) / std])
    spread, largest = float((ends[1] - ends[0]).max()), float(ends.abs().max())
    if low < high and (spread < 0.1 or largest > 20):
        message = (
            f"images of values {low:g}..{high:g} become {float(ends.min()):.3g}.."
            f"{float(ends.max()):.3g} by data_preprocessor's mean and std; networks expect -3..3"
        )
        print_log(message, "current", logging.WARNING)


def _warp_batch(images: Sequence[Tensor], samples: Sequence[MultiTaskDataSample]) -> Tensor:
    """Do the samples' warps: replace labels, return the images (N, 3, H, W).

    Images of whole numbers stay so, as they do on the CPU. Labels of a task are warped together
    where their specs are alike: data sets of one training may label it in different ways.
    """
    records: list[DeferredWarp] = [sample.pop(DeferredWarp.key) for sample in samples]
    kinds = {(record.warp.size, tuple(record.fill)) for record in records}
    if len(kinds) > 1:
        raise InputError(
            "the RandomWarp(on_device=True) of all data sets of a training must have one size and "
            f"one fill, got (height, width) and fill of {sorted(kinds)}"
        )
    (size, fill), device = kinds.pop(), images[0].device
    groups = defaultdict(list)
    for row, record in enumerate(records):
        for task, spec in record.specs.items():
            groups[task, spec.identity].append(row)
    everything = tuple(range(len(records)))
    maps = {
        rows: BatchWarp([records[r].warp for r in rows], [records[r].source for r in rows], device)
        for rows in {everything, *map(tuple, groups.values())}
    }
    stack = framed(images, fill)
    warped = maps[everything].linear(stack)
    for (task, _), rows in groups.items():
        spec = records[rows[0]].specs[task]
        labels = framed([samples[row].label(task) for row in rows], spec.fill)
        for row, label in zip(rows, spec.warp_batch(labels, maps[tuple(rows)]), strict=True):
            samples[row].set_label(task, label)
    for sample in samples:
        sample.set_metainfo(dict(img_shape=size, label_shape=size, pad_shape=size))
    return warped if stack.is_floating_point() else warped.round_()
