"""What a file must say of its model, so that it can be used without this project."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from mmengine.config import Config
from torch import Tensor

from vmt_mm.config.tree import dicts_in
from vmt_mm.export.outputs import TaskOutputs
from vmt_mm.registry import DATASETS

#: Key of the description, JSON, in the metadata of ONNX files and among the files of ``.pt2``.
DESCRIPTION = "vmt_mm.json"


def describe_model(
    wrapped: TaskOutputs, cfg: Config, size: Sequence[int], dynamic: str | None
) -> dict[str, Any]:
    """Describe an exported model.

    Args:
        wrapped: what is exported.
        cfg: its config.
        size: (H, W) of the images that it was traced with.
        dynamic: what may differ from that: 'batch', 'all' or nothing (None).

    Returns:
        ``input``: name, size, what is dynamic and the order of channels; ``mean`` and ``std`` of
        the channels in this order, of values 0..255; ``output``: 'logits' or 'predictions';
        ``tasks``: name -> kind, channels, and where known classes and palette.
    """
    preprocessor = wrapped.model.data_preprocessor
    names = dataset_meta(cfg)
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
    # mmcv reads BGR; where channels are swapped the model gets RGB
    swapped = getattr(preprocessor, "_channel_conversion", False)
    return dict(
        input=dict(
            name="images", size=list(size), dynamic=dynamic, channels="RGB" if swapped else "BGR"
        ),
        mean=_numbers(getattr(preprocessor, "mean", None), 0.0),
        std=_numbers(getattr(preprocessor, "std", None), 1.0),
        output="predictions" if wrapped.predicts else "logits",
        tasks=tasks,
    )


def dataset_meta(cfg: Config) -> dict[str, Mapping[str, Any]]:
    """Task -> ``dict(classes=..., palette=...)`` of the first data set that names any."""
    for loader in ("test_dataloader", "val_dataloader", "train_dataloader"):
        for entry in dicts_in((cfg.get(loader) or {}).get("dataset")):
            kind = DATASETS.get(entry["type"]) if isinstance(entry.get("type"), str) else None
            meta = {**getattr(kind, "METAINFO", {}), **(entry.get("metainfo") or {})}
            meta = {name: value for name, value in meta.items() if isinstance(value, Mapping)}
            if meta:
                return meta
    return {}


def _plain(value: Any) -> Any:
    return np.asarray(value).tolist() if isinstance(value, (list, tuple, np.ndarray)) else value


def _numbers(values: Tensor | None, default: float) -> list[float]:
    return [default] * 3 if values is None else [round(float(v), 4) for v in values.flatten()]
