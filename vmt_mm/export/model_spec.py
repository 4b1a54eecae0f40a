"""What a file must say of its model, so that it can be used without this project."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from torch import Tensor

from vmt_mm.export.outputs import TaskOutputs

#: Key of the description, JSON, in the metadata of ONNX files and among the files of ``.pt2``.
DESCRIPTION = "vmt_mm.json"


def describe_model(
    wrapped: TaskOutputs, names: Mapping[str, Any], size: Sequence[int], dynamic: str | None
) -> dict[str, Any]:
    """Describe an exported model.

    Args:
        wrapped: what is exported.
        names: task -> ``dict(classes=..., palette=...)``, as ``init_model`` has found them.
        size: (H, W) of the images that it was traced with.
        dynamic: what may differ from that: 'batch', 'all' or nothing (None).

    Returns:
        ``input``: name, size, what is dynamic and the order of channels; ``mean`` and ``std`` of
        the channels in this order, of values 0..255; ``output``: 'logits' or 'predictions';
        ``tasks``: name -> kind, channels, and where known classes and palette.
    """
    preprocessor = wrapped.model.data_preprocessor
    tasks = {}
    for name in wrapped.names:
        task = wrapped.model.tasks[name]
        meta = {k: _plain(v) for k, v in (names.get(name) or {}).items()}
        tasks[name] = dict(
            kind=type(task).__name__,
            channels=task.out_channels,
            label=task.describe_output(),
            **meta,
        )
    channels = wrapped.image_channels
    return dict(
        input=dict(
            name="images",
            size=list(size),
            dynamic=dynamic,
            channels=_order(preprocessor, channels),
        ),
        mean=_numbers(getattr(preprocessor, "mean", None), 0.0, channels),
        std=_numbers(getattr(preprocessor, "std", None), 1.0, channels),
        output="predictions" if wrapped.predicts else "logits",
        tasks=tasks,
    )


def _plain(value: Any) -> Any:
    return np.asarray(value).tolist() if isinstance(value, (list, tuple, np.ndarray)) else value


def _order(preprocessor: Any, channels: int) -> str:
    """The order of an image's channels: mmcv reads BGR, which the preprocessor may turn."""
    if channels < 3:
        return "grey" if channels == 1 else f"{channels} as read"
    turned = getattr(preprocessor, "_swap", getattr(preprocessor, "_channel_conversion", False))
    others = f" and {channels - 3} as read" if channels > 3 else ""
    return ("RGB" if turned else "BGR") + others


def _numbers(values: Tensor | None, default: float, channels: int) -> list[float]:
    """One number per channel, with as many digits as float32 has: some are small."""
    numbers = [default] if values is None else [float(f"{v:.7g}") for v in values.flatten()]
    return numbers * channels if len(numbers) == 1 else numbers
