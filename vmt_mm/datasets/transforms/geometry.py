"""Geometric transforms that move every label with the image.

The names of mmseg's transforms are taken on purpose: theirs, and mmcv's, move the image and one
segmentation map, and would leave all other labels behind without an error. What each label does
under a transform is asked of its :class:`~vmt_mm.tasks.labels.LabelSpec`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import cv2
import mmcv.transforms
import numpy as np
from mmcv.transforms import BaseTransform

from vmt_mm.errors import InputError, refuse_unread
from vmt_mm.registry import TRANSFORMS
from vmt_mm.structures import DeferredWarp
from vmt_mm.tasks import LabelSpec, Warp
from vmt_mm.tasks.labels import IGNORE

#: ImageNet's mean colour in the channel order of mmcv's images (BGR): 0 after normalisation.
MEAN_COLOR = (104, 116, 124)


def map_labels(
    results: dict, change: Callable[[LabelSpec, np.ndarray], np.ndarray], size: Sequence[int]
) -> None:
    """Replace every label by ``change(spec, label)``.

    Args:
        results: a sample; its labels must be of the size that the image had.
        change: what happens to a label.
        size: (H, W) of the image before the transform.

    Raises:
        InputError: if a label's size differs, as it does when labels are loaded after a step that
            changes the image's size, or if the image waits for its warp.
    """
    if DeferredWarp.key in results:
        raise InputError(
            f"{results.get('img_path')}: a transform that moves the image stands after "
            "RandomWarp(on_device=True), which moves it later; it must stand before"
        )
    for task, label in results.get("labels", {}).items():
        if label.shape[:2] != tuple(size[:2]):
            raise InputError(
                f"{results.get('img_path')}: a transform changes an image of size "
                f"{tuple(size[:2])} but its label of task {task!r} has {label.shape[:2]}; either "
                "LoadLabels stands before every step that resizes, pads or moves the image, or no "
                "such step follows it"
            )
        results["labels"][task] = change(results["label_specs"][task], label)


def mark_moved(results: dict) -> dict:
    """Note that labels loaded from now on would not match the image."""
    results["moved"] = "labels" not in results
    return results


@TRANSFORMS.register_module()
class RandomWarp(BaseTransform):
    """Random flip, rotation and zoom and the resize to a fixed size, in one interpolation.

    Pixels that come from outside the image carry no label for any task. Order of the maps: flip,
    rotation and zoom about the centre, both within the image's own frame, resize of the frame.

    Args:
        size: (width, height) of the output.
        flip_prob: probability of mirroring left and right.
        rotate: range of the angle in degrees, counter-clockwise as seen.
        scale: range of the zoom, > 1 enlarges.
        fill: colour of new pixels in the image, in its channel order; one value counts for all
            channels. None takes ImageNet's mean, which images of their own units, as
            ``color_type='unchanged'`` gives them, have no use of: they need a value.
        on_device: only draw, and leave the warp to :class:`MultiTaskDataPreprocessor`, which does
            it for a whole batch on the model's device. For training pipelines; no transform that
            moves the image may follow, and one that changes colours sees the image as it was. The
            draws are the same. A label whose spec cannot do it there is warped at once.
    """

    def __init__(
        self,
        size: tuple[int, int] = (512, 512),
        flip_prob: float = 0.5,
        rotate: tuple[float, float] = (-20.0, 20.0),
        scale: tuple[float, float] = (0.75, 1.25),
        fill: Sequence[float] | float | None = None,
        on_device: bool = False,
    ) -> None:
        if scale[0] <= 0 or scale[0] > scale[1] or rotate[0] > rotate[1]:
            raise InputError(
                f"RandomWarp: scale {tuple(scale)} and rotate {tuple(rotate)} must be ranges "
                "(low, high), with a positive scale"
            )
        if min(size) < 1 or not 0 <= flip_prob <= 1:
            raise InputError(
                f"RandomWarp: size {tuple(size)} must be positive and flip_prob {flip_prob} in 0..1"
            )
        self.size = tuple(size)
        self.flip_prob = flip_prob
        self.rotate = tuple(rotate)
        self.scale = tuple(scale)
        self.fill = (fill,) if isinstance(fill, (int, float)) else fill and tuple(fill)
        self.on_device = on_device

    def transform(self, results: dict) -> dict:
        """Warp the image and its labels."""
        image = results["img"]
        flip = bool(np.random.uniform() < self.flip_prob)
        angle, scale = np.random.uniform(*self.rotate), np.random.uniform(*self.scale)
        warp = make_warp(image.shape[:2], self.size[::-1], flip, angle, scale)
        if self.on_device:
            return self._defer(results, warp)
        results["img"] = warp.apply(image, cv2.INTER_LINEAR, self._fill_of(results))
        map_labels(results, lambda spec, label: spec.warp(label, warp), image.shape)
        results["img_shape"] = results["img"].shape[:2]
        return mark_moved(results)

    def _fill_of(self, results: dict) -> tuple[float, ...]:
        """One value a channel of the image."""
        image = results["img"]
        channels = 1 if image.ndim == 2 else image.shape[2]
        fill = self.fill
        if fill is None and results.get("own_units"):
            raise InputError(
                f"{results.get('img_path')}: RandomWarp needs fill=(...), the value of new pixels "
                f"in each of the {channels} channel(s): data_preprocessor.mean, in the order in "
                "which the image is read"
            )
        if fill is None:
            fill = MEAN_COLOR if channels == 3 else (round(sum(MEAN_COLOR) / 3),)
        if len(fill) not in (1, channels):
            raise InputError(
                f"{results.get('img_path')}: RandomWarp's fill={fill} has {len(fill)} values, and "
                f"the image {channels} channel(s)"
            )
        return tuple(fill) if len(fill) == channels else tuple(fill) * channels

    def _defer(self, results: dict, warp: Warp) -> dict:
        """Note the warp; do it to the labels that cannot wait."""
        source = tuple(results["img"].shape[:2])
        specs = results.get("label_specs", {})
        waiting = {t: specs[t] for t in results.get("labels", {}) if specs[t].supports_batch_warp}

        def change(spec: LabelSpec, label: np.ndarray) -> np.ndarray:
            return label if spec.supports_batch_warp else spec.warp(label, warp)

        map_labels(results, change, source)
        results[DeferredWarp.key] = DeferredWarp(warp, source, self._fill_of(results), waiting)
        return mark_moved(results)


def make_warp(
    source: tuple[int, int],
    target: tuple[int, int],
    flip: bool = False,
    angle: float = 0.0,
    scale: float = 1.0,
) -> Warp:
    """Compose flip, rotation, zoom and resize; sizes are (H, W), the angle in degrees.

    Pixel centres lie at integers, so that the frame of a size-n axis is [-0.5, n - 0.5].
    """
    (height, width), (out_height, out_width) = source, target
    center = np.array([(width - 1) / 2, (height - 1) / 2])
    cos, sin = np.cos(np.deg2rad(angle)), np.sin(np.deg2rad(angle))
    # Image y points down: counter-clockwise as seen is clockwise in these coordinates.
    linear = scale * np.array([[cos, sin], [-sin, cos]])
    if flip:
        linear = linear @ np.diag([-1.0, 1.0])
    stretch = np.array([out_width / width, out_height / height])
    out_center = np.array([(out_width - 1) / 2, (out_height - 1) / 2])
    linear = stretch[:, None] * linear
    matrix = np.column_stack([linear, out_center - linear @ center])
    return Warp(matrix, (out_height, out_width), flip, float(angle), float(scale))


@TRANSFORMS.register_module()
class Resize(mmcv.transforms.Resize):
    """mmcv's ``Resize``, for all labels.

    Args:
        nearest_labels: labels take each pixel's nearest neighbour, also those that are else
            interpolated.
        kwargs: see ``mmcv.transforms.Resize``.

    Raises:
        InputError: if it stands between ``Pad`` and the loading of labels.
    """

    unread = dict(clip_object_border="there are no boxes")

    def __init__(self, *args: Any, nearest_labels: bool = False, **kwargs: Any) -> None:
        refuse_unread(Resize, kwargs)
        super().__init__(*args, **kwargs)
        self.nearest_labels = nearest_labels

    def transform(self, results: dict) -> dict:
        """Resize the image and its labels."""
        if "content_shape" in results:
            raise InputError("Resize stands between Pad and LoadLabels; it must be before Pad")
        before = results["img"].shape
        results = super().transform(results)
        after = results["img"].shape[:2]

        def resize(spec: LabelSpec, label: np.ndarray) -> np.ndarray:
            return (spec.resize_nearest if self.nearest_labels else spec.resize)(label, after)

        map_labels(results, resize, before)
        return results


@TRANSFORMS.register_module()
class RandomResize(mmcv.transforms.RandomResize):
    """mmcv's ``RandomResize``, for all labels.

    With a ``ratio_range`` it is a zoom: what is cut or padded to a fixed size afterwards shows the
    scene enlarged by the ratio that was drawn, and label values follow as under other zooms.
    """

    def __init__(
        self, scale: Any, ratio_range: Any = None, resize_type: str = "Resize", **kwargs: Any
    ) -> None:
        if ratio_range is not None:
            scale = tuple(scale)
        super().__init__(scale, ratio_range, f"vmt_mm.{resize_type}", **kwargs)

    def transform(self, results: dict) -> dict:
        """Resize the image and its labels."""
        results = super().transform(results)
        if self.ratio_range is not None:
            zoom = results["scale"][0] / self.scale[0]
            map_labels(
                results, lambda spec, label: spec.zoom_values(label, zoom), results["img"].shape
            )
        return results


@TRANSFORMS.register_module()
class RandomFlip(mmcv.transforms.RandomFlip):
    """mmcv's ``RandomFlip``, for all labels; left-right only."""

    unread = dict(swap_seg_labels="a task whose classes change sides says so in its label")

    def __init__(
        self, prob: float | None = None, direction: str = "horizontal", **kwargs: Any
    ) -> None:
        if direction != "horizontal":
            raise InputError(f"RandomFlip: direction must be 'horizontal', got {direction!r}")
        refuse_unread(RandomFlip, kwargs)
        super().__init__(prob, direction, **kwargs)

    def _flip(self, results: dict) -> None:
        super()._flip(results)
        map_labels(results, lambda spec, label: spec.flip(label), results["img"].shape)
        if not results.get("turned_back"):  # as the versions of a test are, by the model
            mark_moved(results)


@TRANSFORMS.register_module()
class Pad(mmcv.transforms.Pad):
    """mmcv's ``Pad``, for all labels; new pixels carry no label.

    In a test pipeline it may stand before ``LoadLabels``: the padding is below and at the right, so
    that labels keep their native size and predictions are cut to it.

    Args:
        kwargs: see ``mmcv.transforms.Pad``; ``pad_val`` is the image's.

    Raises:
        InputError: if ``pad_val`` says what labels are padded with, other than the value ignored.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        value = kwargs.get("pad_val")
        others = set(value) - {"img"} if isinstance(value, Mapping) else set()
        if others and not (others == {"seg"} and value["seg"] == IGNORE):
            raise InputError(
                f"Pad: pad_val is of the image, dict(img=...), got {dict(value)}; in labels new "
                "pixels are what each task ignores"
            )
        super().__init__(*args, **kwargs)

    def transform(self, results: dict) -> dict:
        """Pad the image and its labels below and at the right."""
        before = results["img"].shape
        results = super().transform(results)
        bottom, right = np.subtract(results["img"].shape[:2], before[:2])
        map_labels(results, lambda spec, label: spec.pad(label, bottom, right), before)
        if "labels" not in results:
            results["content_shape"] = before[:2]
        return results
