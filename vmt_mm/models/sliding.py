"""Sliding-window inference: run overlapping windows, and average their logits."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from vmt_mm.errors import InputError
from vmt_mm.utils.feature_maps import resize

#: Keys of ``test_cfg``.
KEYS = ("mode", "tasks", "crop_size", "stride", "crop_batch")
Size = tuple[int, int]


@dataclass(frozen=True)
class Window:
    """Size ``crop`` and ``stride`` of windows, (height, width); ``crop_batch`` run at a time."""

    crop: Size
    stride: Size
    crop_batch: int | None = None

    def boxes(self, size: Size) -> list[tuple[int, int, int, int]]:
        """Return (top, left, bottom, right) of every window; the last ones end at the border."""
        starts = []
        for side, crop, stride in zip(size, self.crop, self.stride, strict=True):
            last = max(side - crop, 0)
            starts.append([*range(0, last, stride), last])
        height, width = map(min, size, self.crop)
        return [(y, x, y + height, x + width) for y in starts[0] for x in starts[1]]


def parse_test_cfg(cfg: Mapping[str, Any] | None) -> Window | None:
    """Parse ``test_cfg``; None means no windows. Raises InputError for invalid settings."""
    cfg = dict(cfg or {})
    if unknown := [key for key in cfg if key not in KEYS]:
        raise InputError(f"model.test_cfg: unknown key {unknown[0]!r}; use {', '.join(KEYS)}")
    mode = cfg.get("mode", "whole")
    if mode == "whole":
        for key in cfg.keys() & set(KEYS[2:]):
            raise InputError(f"model.test_cfg.{key} needs mode='slide'")
        return None
    if mode != "slide":
        raise InputError(f"model.test_cfg.mode must be one of 'whole', 'slide', got {mode!r}")
    for key in ("crop_size", "stride"):
        pair = cfg.get(key)
        if not (isinstance(pair, Sequence) and len(pair) == 2 and all(map(_is_count, pair))):
            raise InputError(f"model.test_cfg.{key} must be two positive integers, got {pair!r}")
    crop, stride, batch = tuple(cfg["crop_size"]), tuple(cfg["stride"]), cfg.get("crop_batch")
    if any(step > side for step, side in zip(stride, crop, strict=True)):
        raise InputError(f"model.test_cfg.stride {stride} must not exceed crop_size {crop}")
    if batch is not None and not _is_count(batch):
        raise InputError(f"model.test_cfg.crop_batch must be a positive integer, got {batch!r}")
    return Window(crop, stride, batch)


def _is_count(value: Any) -> bool:
    return type(value) is int and value > 0


def slide(
    run: Callable[[Tensor], Mapping[str, Tensor]], images: Tensor, window: Window
) -> dict[str, Tensor]:
    """Run all windows, and average the logits of overlapping windows at every pixel.

    ``run`` maps crops (n, 3, h, w) to logits per task. Returns (B, C, H, W) per task, float32.
    """
    size = (images.shape[2], images.shape[3])
    boxes = window.boxes(size)
    count = images.new_zeros((1, 1, *size), dtype=torch.float32)
    for t, x, b, r in boxes:
        count[..., t:b, x:r] += 1
    sums: dict[str, Tensor] = {}
    places = [(row, box) for box in boxes for row in range(len(images))]
    step = window.crop_batch or len(images)
    for chunk in (places[start : start + step] for start in range(0, len(places), step)):
        crops = torch.stack([images[row, :, t:b, x:r] for row, (t, x, b, r) in chunk])
        for name, logits in run(crops).items():
            logits = resize(logits.float(), crops.shape[2:])
            if name not in sums:
                sums[name] = logits.new_zeros((len(images), logits.shape[1], *size))
            for (row, (t, x, b, r)), of_crop in zip(chunk, logits, strict=True):
                sums[name][row, :, t:b, x:r] += of_crop
    return {name: total / count for name, total in sums.items()}
