"""Transforms of mmcv and mmseg that would leave labels behind, and what to use for them."""

from __future__ import annotations

from typing import Any

from vmt_mm.errors import InputError

_OURS = "moves the image and mmseg's one segmentation map; use {0} without a scope, for all labels"
_WARP = (
    "moves the image and mmseg's one segmentation map alone; use RandomWarp(rotate=, scale=, "
    "flip_prob=), which moves the labels of all tasks"
)
_LABELS = "reads mmseg's one segmentation map; use LoadLabels, which reads the labels of all tasks"
_MAP = "changes mmseg's one segmentation map, which no task has"
_VOLUME = "is for volumes of mmseg's medical data sets"
#: (package, class) -> why it is refused, and what to use.
_ADVICE = {
    **{
        (package, name): _OURS.format(name)
        for package in ("mmcv", "mmseg")
        for name in ("RandomCrop", "RandomFlip", "RandomResize", "Resize", "Pad", "TestTimeAug")
    },
    (
        "mmcv",
        "LoadImageFromFile",
    ): "turns images and not labels by EXIF, and cuts 16 bits to 8; use "
    "LoadImageFromFile without a scope",
    ("mmcv", "LoadAnnotations"): _LABELS,
    ("mmcv", "CenterCrop"): "moves the image alone; use RandomCrop or Resize",
    ("mmcv", "MultiScaleFlipAug"): "moves the image alone; use TestTimeAug",
    ("mmcv", "ImageToTensor"): "makes a tensor too early; PackMultiTaskInputs does it",
    ("mmseg", "LoadAnnotations"): _LABELS,
    ("mmseg", "LoadDepthAnnotation"): _LABELS,
    ("mmseg", "LoadBiomedicalAnnotation"): _LABELS,
    ("mmseg", "PackSegInputs"): "packs mmseg's one segmentation map; use PackMultiTaskInputs",
    ("mmseg", "RandomRotate"): _WARP,
    ("mmseg", "RandomRotFlip"): _WARP,
    ("mmseg", "RandomMosaic"): _WARP,
    ("mmseg", "RandomDepthMix"): _MAP,
    ("mmseg", "Albu"): "may move the image and not the labels; use RandomWarp for what moves",
    ("mmseg", "ResizeToMultiple"): _OURS.format("Resize"),
    ("mmseg", "ResizeShortestEdge"): _OURS.format("Resize"),
    ("mmseg", "SegRescale"): _MAP,
    ("mmseg", "GenerateEdge"): _MAP + "; an Edge task has labels of its own",
    ("mmseg", "ConcatCDInput"): "is for pairs of images",
    ("mmseg", "LoadBiomedicalData"): _VOLUME,
    ("mmseg", "LoadBiomedicalImageFromFile"): _VOLUME,
    ("mmseg", "BioMedical3DPad"): _VOLUME,
    ("mmseg", "BioMedical3DRandomCrop"): _VOLUME,
    ("mmseg", "BioMedical3DRandomFlip"): _VOLUME,
}


def advice_on(kind: type) -> str | None:
    """Why a transform's class does not fit here, and what to use; None if it does."""
    return _ADVICE.get((kind.__module__.split(".")[0], kind.__name__))


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
