"""What happens to a batch on the model's device before the model sees it.

Letters: N images, h, w height and width of sources, H, W of the network's input, in pixels.
"""

from __future__ import annotations

import logging
import math
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

#: Normalised values of a batch that differ by less, or lie further from 0, are of another range.
_LEAST_SPREAD, _LARGEST = 0.1, 20


@MODELS.register_module()
class MultiTaskDataPreprocessor(ImgDataPreprocessor):
    """MMEngine's ``ImgDataPreprocessor`` that also does the warps which a pipeline left to it.

    See :class:`~vmt_mm.datasets.transforms.RandomWarp` with ``on_device``. Images may have any
    number of channels; ``bgr_to_rgb`` turns the order of the first three and keeps the others.
    With the first batch, a warning says where ``mean`` and ``std`` are not made for its values.

    Args:
        mean: of the channels, in the order that the network gets; one value counts for all. None
            normalises nothing.
        std: likewise.
        bgr_to_rgb: turn the order of the first three channels.
        rgb_to_bgr: the same.
        kwargs: see ``mmengine.model.ImgDataPreprocessor``; with ``non_blocking`` the training does
            not wait while a batch is copied to the device from pinned memory.

    Raises:
        InputError: if ``mean`` and ``std`` are no such values or do not fit the images' channels,
            if warps are left to it in a test, if some images of a batch have none, or if the warps
            of a batch differ in the size of the output or in the fill.
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

    def __init__(
        self,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        bgr_to_rgb: bool = False,
        rgb_to_bgr: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        check_normalisation(mean, std)
        self._enable_normalize = mean is not None
        if self._enable_normalize:
            self._numbers = [torch.tensor(list(n)).float().view(-1, 1, 1) for n in (mean, std)]
            for name, numbers in zip(("mean", "std"), self._numbers, strict=True):
                self.register_buffer(name, numbers, persistent=False)
        self._swap = self._channel_conversion = bgr_to_rgb or rgb_to_bgr
        self._channels: int | None = None

    def forward(self, data: Mapping[str, Any], training: bool = False) -> dict[str, Any]:
        """Copy a batch to the device, warp, normalise, and stack.

        Args:
            data: ``inputs``: images (3, h, w), and ``data_samples``: their samples.
            training: whether a training asks.

        Returns:
            ``inputs`` (N, C, H, W) and ``data_samples``.
        """
        self._look_at(data["inputs"])
        waiting = [DeferredWarp.key in sample for sample in data.get("data_samples") or ()]
        if not any(waiting):
            return self._normalise(data, training)
        if not training or not all(waiting):
            raise InputError(
                "RandomWarp(on_device=True) belongs in training pipelines, and in those of all "
                "data sets of a training or of none"
            )
        data = self.cast_data(data)  # samples are new objects from here on
        images = _warp_batch(data["inputs"], data["data_samples"])
        batch = self._normalise({**data, "inputs": images, "data_samples": None}, training)
        return {**batch, "data_samples": data["data_samples"]}

    def _look_at(self, images: Sequence[Tensor]) -> None:
        """Check a batch's channels, and the first one's values."""
        counts = {image.shape[0] for image in images}
        if counts == {self._channels}:
            return
        self._check_channels(counts)
        self._channels = counts.pop()
        self._channel_conversion = self._swap and self._channels == 3  # mmengine's, of three
        if self._enable_normalize and images[0].device.type == "cpu":  # as loaders give them
            warn_of_range(images, *self._numbers)

    def _normalise(self, data: Mapping[str, Any], training: bool) -> dict[str, Any]:
        """What mmengine's class does, for any number of channels."""
        if self._swap and self._channels != 3:
            data = self.cast_data(data)
            order = [2, 1, 0, *range(3, self._channels)]
            data = {**data, "inputs": [image[order] for image in data["inputs"]]}
        return super().forward(data, training)

    def _check_channels(self, counts: set[int]) -> None:
        """Raise InputError unless images of these numbers of channels can be normalised."""
        if len(counts) > 1:
            raise InputError(
                f"images of {sorted(counts)} channels in one batch; LoadImageFromFile's color_type "
                "'color' makes three of all"
            )
        (channels,) = counts
        known = {len(self.mean), len(self.std), 1} if self._enable_normalize else {1}
        if not known <= {1, channels}:
            raise InputError(
                f"data_preprocessor: mean and std have {max(known)} values, and an image has "
                f"{channels} channel(s); LoadImageFromFile's color_type decides how many"
            )
        if self._swap and channels < 3:
            raise InputError(
                f"data_preprocessor: bgr_to_rgb is for three channels or more, and an image has "
                f"{channels}; set bgr_to_rgb=False"
            )


def check_normalisation(mean: Sequence[float] | None, std: Sequence[float] | None) -> None:
    """Raise InputError unless both are numbers of the channels, or both None."""
    if mean is None and std is None:
        return
    for name, values in (("mean", mean), ("std", std)):
        if not isinstance(values, (list, tuple)) or not all(
            isinstance(v, (int, float)) and math.isfinite(v) for v in values
        ):
            raise InputError(
                f"data_preprocessor.{name}: expected one number a channel, got {values!r}; to "
                "normalise nothing set both mean and std to None"
            )
    if min(std, default=0) <= 0 or not mean or len({len(mean), len(std)} - {1}) > 1:
        raise InputError(
            f"data_preprocessor: mean and std must be as many, std above 0, got {mean} and {std}"
        )


def warn_of_range(images: Sequence[Tensor], mean: Tensor, std: Tensor) -> None:
    """Warn where normalised values are none that a network can tell apart, or far too large.

    Args:
        images: (C, H, W) of a batch.
        mean: (C, 1, 1), or (1, 1, 1).
        std: likewise.
    """
    low = min(float(image.min()) for image in images)
    high = max(float(image.max()) for image in images)
    ends = torch.stack([(low - mean) / std, (high - mean) / std])
    spread, largest = float((ends[1] - ends[0]).max()), float(ends.abs().max())
    if low < high and (spread < _LEAST_SPREAD or largest > _LARGEST):
        print_log(
            f"images of values {low:g}..{high:g} become {float(ends.min()):.3g}.."
            f"{float(ends.max()):.3g} by data_preprocessor's mean={mean.flatten().tolist()} and "
            f"std={std.flatten().tolist()}: they are made for another range; networks expect about "
            "-3..3",
            "current",
            logging.WARNING,
        )


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
