"""Sliding-window inference: crops that overlap, run a few at a time, and averaged.

Letters: B images, C channels, H, W height and width in pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from vmt_mm.errors import InputError

MODES = ("whole", "slide")
#: What ``test_cfg`` may hold.
KEYS = ("mode", "tasks", "crop_size", "stride", "crop_batch")
Size = tuple[int, int]


@dataclass(frozen=True)
class Window:
    """How an image is covered.

    Attributes:
        crop: (height, width) of a window, pixels of the network's input.
        stride: (down, right) from one window to the next, pixels.
        crop_batch: how many windows are run at a time; None runs as many as there are images.
    """

    crop: Size
    stride: Size
    crop_batch: int | None = None

    def boxes(self, size: Size) -> list[tuple[int, int, int, int]]:
        """(top, left, bottom, right) of every window; those at the border end with the image.

        Args:
            size: (H, W) of the image; where it is smaller than a window, one covers it all.
        """
        tops, lefts = (_starts(*sides) for sides in zip(size, self.crop, self.stride, strict=True))
        height, width = (min(pair) for pair in zip(size, self.crop, strict=True))
        return [(top, left, top + height, left + width) for top in tops for left in lefts]


def _starts(side: int, crop: int, stride: int) -> list[int]:
    """Where windows begin along one side: the last one ends with it."""
    last = max(side - crop, 0)
    return [*range(0, last, stride), last]


def parse_test_cfg(cfg: Mapping[str, Any] | None) -> Window | None:
    """The windows that ``test_cfg`` asks for; None for whole images.

    Raises:
        InputError: if a key is unknown, or a size no pair of positive numbers, or windows leave
            gaps between them.
    """
    cfg = dict(cfg or {})
    if unknown := [key for key in cfg if key not in KEYS]:
        raise InputError(f"model.test_cfg takes no {unknown[0]!r}; it takes {', '.join(KEYS)}")
    mode = cfg.get("mode", "whole")
    if mode not in MODES:
        raise InputError(f"model.test_cfg.mode must be one of {MODES}, got {mode!r}")
    if mode == "whole":
        if of_slide := [key for key in KEYS[2:] if key in cfg]:
            raise InputError(f"model.test_cfg.{of_slide[0]} needs mode='slide'")
        return None
    crop, stride = (_pair(cfg.get(key), key) for key in ("crop_size", "stride"))
    if any(step > side for step, side in zip(stride, crop, strict=True)):
        raise InputError(
            f"model.test_cfg.stride {stride} must not exceed crop_size {crop}, or pixels between "
            "windows get no prediction"
        )
    batch = cfg.get("crop_batch")
    if batch is not None and (type(batch) is not int or batch < 1):
        raise InputError(f"model.test_cfg.crop_batch must be a positive number, got {batch!r}")
    return Window(crop, stride, batch)


def _pair(value: Any, key: str) -> Size:
    numbers = tuple(value) if isinstance(value, Sequence) and not isinstance(value, str) else ()
    if len(numbers) != 2 or any(type(n) is not int or n < 1 for n in numbers):
        raise InputError(
            f"model.test_cfg.{key} must be two positive whole numbers, (height, width), got "
            f"{value!r}"
        )
    return numbers


def slide(
    run: Callable[[Tensor], Mapping[str, Tensor]], images: Tensor, window: Window
) -> dict[str, Tensor]:
    """Average the logits of windows, at every pixel over those that cover it.

    Args:
        run: crops (n, 3, h, w) -> task -> logits (n, C, any, any).
        images: (B, 3, H, W), without padding of a batch.
        window: the windows.

    Returns:
        Task -> logits (B, C, H, W), float32.
    """
    size = (images.shape[2], images.shape[3])
    boxes = window.boxes(size)
    count = images.new_zeros((1, 1, *size), dtype=torch.float32)
    for top, left, bottom, right in boxes:
        count[..., top:bottom, left:right] += 1
    sums: dict[str, Tensor] = {}
    places = [(row, box) for box in boxes for row in range(len(images))]
    for chunk in _chunks(places, window.crop_batch or len(images)):
        crops = torch.stack([images[row, :, t:b, x:r] for row, (t, x, b, r) in chunk])
        for name, logits in run(crops).items():
            logits = F.interpolate(
                logits.float(), size=crops.shape[2:], mode="bilinear", align_corners=False
            )
            if name not in sums:
                sums[name] = logits.new_zeros((len(images), logits.shape[1], *size))
            for (row, (top, left, bottom, right)), of_crop in zip(chunk, logits, strict=True):
                sums[name][row, :, top:bottom, left:right] += of_crop
    return {name: total / count for name, total in sums.items()}


def _chunks(items: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]
