"""Transforms of mmcv and mmseg that would leave labels behind."""

from __future__ import annotations

from typing import Any

from vmt_mm.errors import InputError

_UNFIT = {
    *("LoadImageFromFile", "LoadAnnotations", "LoadDepthAnnotation", "PackSegInputs"),
    *("Resize", "ResizeToMultiple", "ResizeShortestEdge", "RandomResize", "SegRescale", "Pad"),
    *("RandomFlip", "RandomCrop", "CenterCrop", "RandomRotate", "RandomRotFlip", "RandomMosaic"),
    *("TestTimeAug", "MultiScaleFlipAug", "Albu", "RandomDepthMix", "GenerateEdge"),
}


def advice_on(kind: type) -> str | None:
    """Why a transform's class does not fit here, and what to use; None if it does."""
    if kind.__module__.split(".")[0] not in ("mmcv", "mmseg") or kind.__name__ not in _UNFIT:
        return None
    return (
        "knows the image and one segmentation map alone; use, without a scope, LoadImageFromFile, "
        "LoadLabels, Resize, RandomResize, RandomFlip, RandomCrop, RandomWarp (rotation), Pad, "
        "TestTimeAug or PackMultiTaskInputs, which are for all labels"
    )


def refuse_unfit(transform: Any, source: str) -> None:
    """Raise InputError, which names the ``source``, if one of built transforms does not fit."""
    if isinstance(transform, (list, tuple)):
        for inner in transform:
            refuse_unfit(inner, source)
    elif advice := advice_on(type(transform)):
        raise InputError(f"{source}: {type(transform).__name__} {advice}")
    else:
        for name in ("transforms", "subroutines"):  # of mmcv's that hold others
            refuse_unfit(getattr(transform, name, ()), source)
