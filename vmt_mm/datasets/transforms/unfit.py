"""Transforms of mmcv and mmseg that would leave labels behind, and what to use for them."""

from __future__ import annotations

from typing import Any

from vmt_mm.errors import InputError

_SAME = [
    "LoadImageFromFile",
    "Resize",
    "RandomResize",
    "RandomFlip",
    "RandomCrop",
    "Pad",
    "TestTimeAug",
]
#: Class -> what to use for it.
_USE = {
    **{name: f"{name} without a scope, which is for all labels" for name in _SAME},
    **dict.fromkeys(("ResizeToMultiple", "ResizeShortestEdge"), "Resize without a scope"),
    **dict.fromkeys(
        ("RandomRotate", "RandomRotFlip", "RandomMosaic", "Albu"),
        "RandomWarp(rotate=, scale=, flip_prob=), which moves the labels of all tasks",
    ),
    **dict.fromkeys(("LoadAnnotations", "LoadDepthAnnotation"), "LoadLabels"),
    **dict.fromkeys(("PackSegInputs", "ImageToTensor"), "PackMultiTaskInputs"),
    **dict.fromkeys(("RandomDepthMix", "SegRescale", "GenerateEdge"), "nothing in its place"),
    "CenterCrop": "RandomCrop or Resize",
    "MultiScaleFlipAug": "TestTimeAug",
}


def advice_on(kind: type) -> str | None:
    """Why a transform's class does not fit here, and what to use; None if it does."""
    theirs = kind.__module__.split(".")[0] in ("mmcv", "mmseg")
    use = _USE.get(kind.__name__) if theirs else None
    return f"knows the image and one segmentation map alone; use {use}" if use else None


def refuse_unfit(transform: Any, source: str) -> None:
    """Raise InputError for a transform that would leave labels behind, inside others as well.

    Args:
        transform: a built one, or lists of them.
        source: whose pipeline it is, for the message.
    """
    if isinstance(transform, (list, tuple)):
        for inner in transform:
            refuse_unfit(inner, source)
    elif advice := advice_on(type(transform)):
        raise InputError(f"{source}: {type(transform).__name__} {advice}")
    else:
        for name in ("transforms", "subroutines"):  # of mmcv's that hold others
            refuse_unfit(getattr(transform, name, ()), source)
