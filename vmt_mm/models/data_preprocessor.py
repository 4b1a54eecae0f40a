"""Warp and normalise batches of images (N, C, H, W) on the model's device."""

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
    """Data preprocessor that normalises, pads and stacks images, and applies deferred warps.

    Extends MMEngine's ``ImgDataPreprocessor`` to any number of channels, and to the warps of
    :class:`~vmt_mm.datasets.transforms.RandomWarp` with ``on_device``. ``mean`` and ``std`` have
    one value per channel, in the network's order, or one for all. Warns if the normalised first
    batch has an implausible range.
    """

    #: Arguments of mmseg's preprocessor that are refused -> what to use.
    unread: ClassVar[Mapping[str, str]] = dict(
        size="resize images in the pipeline; `pad_size_divisor` pads batches",
        size_divisor="use `pad_size_divisor`",
        pad_val="use `pad_value`",
        seg_pad_val="padded label pixels get the ignore value of each task",
        test_cfg="`pad_size_divisor` also pads test batches",
        batch_augments="augment images in the pipeline",
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
        """Copy a batch to the device, then warp, normalise, pad and stack it.

        ``inputs`` is a list of images (C, h, w) in ``data``, and (N, C, H, W) in the result.
        """
        self._check_images(data["inputs"])
        waiting = [DeferredWarp.key in sample for sample in data.get("data_samples") or ()]
        if not any(waiting):
            return self._normalise(data, training)
        if not training or not all(waiting):
            raise InputError(
                "RandomWarp(on_device=True) is only for training pipelines, and must be set in "
                "those of all training datasets or of none"
            )
        data = self.cast_data(data)  # copies the samples
        images = _warp_batch(data["inputs"], data["data_samples"])
        batch = self._normalise({**data, "inputs": images, "data_samples": None}, training)
        return {**batch, "data_samples": data["data_samples"]}

    def _normalise(self, data: Any, training: bool) -> Any:
        """Normalise as mmengine does, for any number of channels."""
        if self._swap and self._channels != 3:
            data = self.cast_data(data)
            order = [2, 1, 0, *range(3, self._channels)]
            data = {**data, "inputs": [image[order] for image in data["inputs"]]}
        return super().forward(data, training)

    def _check_images(self, images: Sequence[Tensor]) -> None:
        """Raise InputError if images do not fit the settings; check the first batch's range."""
        counts = {image.shape[0] for image in images}
        if counts == {self._channels}:
            return
        if len(counts) > 1:
            found = f"images in one batch have {' and '.join(map(str, sorted(counts)))} channels"
            raise InputError(f"{found}; set LoadImageFromFile(color_type='color') in all pipelines")
        (channels,) = counts
        known = {len(values) for values in self._numbers.values()} | {1}
        if not known <= {1, channels}:
            raise InputError(
                f"data_preprocessor: mean and std have {max(known)} values, but the images have "
                f"{channels} channel(s); change them, or color_type of LoadImageFromFile"
            )
        if self._swap and channels < 3:
            raise InputError(f"data_preprocessor: bgr_to_rgb needs 3 channels, got {channels}")
        self._channels = channels
        self._channel_conversion = self._swap and channels == 3  # mmengine swaps three only
        if self._numbers and images[0].device.type == "cpu":  # as data loaders return them
            warn_of_range(images, **self._numbers)


def _check_numbers(**numbers: Any) -> dict[str, Tensor]:
    """Return mean and std, each (C, 1, 1) or (1, 1, 1); an empty dict if both are None."""
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
            f"data_preprocessor: mean and std need one value per channel, std > 0, got {numbers}"
        )
    return {name: values.view(-1, 1, 1) for name, values in found.items()}


def warn_of_range(images: Sequence[Tensor], mean: Tensor, std: Tensor) -> None:
    """Warn if the normalised values of images (C, H, W) are almost constant or far too large."""
    low = min(float(image.min()) for image in images)
    high = max(float(image.max()) for image in images)
    ends = torch.stack([(low - mean) / std, (high - mean) / std])
    spread, largest = float((ends[1] - ends[0]).max()), float(ends.abs().max())
    if low < high and (spread < 0.1 or largest > 20):
        message = (
            f"data_preprocessor: mean and std map image values [{low:g}, {high:g}] to "
            f"[{float(ends.min()):.3g}, {float(ends.max()):.3g}]; networks expect about [-3, 3]"
        )
        print_log(message, "current", logging.WARNING)


def _warp_batch(images: Sequence[Tensor], samples: Sequence[MultiTaskDataSample]) -> Tensor:
    """Apply the deferred warps: replace the labels, and return the images (N, C, H, W).

    Integer images keep integer values, as on the CPU. Labels of a task are warped in one batch per
    spec, since datasets may label the task in different ways.
    """
    records: list[DeferredWarp] = [sample.pop(DeferredWarp.key) for sample in samples]
    kinds = {(record.warp.size, tuple(record.fill)) for record in records}
    if len(kinds) > 1:
        raise InputError(
            "RandomWarp(on_device=True) must have the same size and fill in all training "
            f"datasets, got (height, width) and fill {sorted(kinds)}"
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
