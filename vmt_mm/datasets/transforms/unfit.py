"""Refuse transforms of mmcv and mmseg that would move the image without its labels."""

from typing import Any

from vmt_mm.errors import InputError

#: Class of mmcv or mmseg -> replacement in vmt_mm.
_INSTEAD = {
    **{name: name for name in ("LoadImageFromFile", "Resize", "RandomResize", "Pad")},
    **{name: name for name in ("RandomFlip", "RandomCrop", "TestTimeAug")},
    **dict.fromkeys(("LoadAnnotations", "LoadDepthAnnotation", "GenerateEdge"), "LoadLabels"),
    **dict.fromkeys(("ResizeToMultiple", "ResizeShortestEdge", "SegRescale"), "Resize"),
    **dict.fromkeys(("RandomRotate", "RandomRotFlip", "RandomMosaic", "Albu"), "RandomWarp"),
    **dict(PackSegInputs="PackMultiTaskInputs", RandomDepthMix="RandomWarp"),
    **dict(CenterCrop="RandomCrop", MultiScaleFlipAug="TestTimeAug"),
}


def advice_on(kind: type) -> str | None:
    """Return why a transform class is unsupported and what to use; None if it is supported."""
    use = _INSTEAD.get(kind.__name__)
    if kind.__module__.split(".")[0] not in ("mmcv", "mmseg") or not use:
        return None
    return f"handles only the image and one segmentation map; use {use} without a scope"


def refuse_unfit(transform: Any, source: str) -> None:
    """Raise InputError that names ``source`` if a built transform, or one in it, is unsupported."""
    if isinstance(transform, (list, tuple)):
        for inner in transform:
            refuse_unfit(inner, source)
    elif advice := advice_on(type(transform)):
        raise InputError(f"{source}: {type(transform).__name__} {advice}")
    else:
        for name in ("transforms", "subroutines"):  # of mmcv's wrappers
            refuse_unfit(getattr(transform, name, ()), source)
