"""Geometric transforms of the image and all of its labels.

They replace the transforms of mmseg and mmcv with the same names, which handle only the image and
one segmentation map. A :class:`~vmt_mm.tasks.labels.LabelSpec` defines how its label transforms.
"""

from collections.abc import Callable, Sequence
from typing import Any

import cv2
import mmcv.transforms
import mmseg.datasets.transforms
import numpy as np
from mmcv.transforms import BaseTransform

from vmt_mm.errors import InputError, refuse_unread
from vmt_mm.registry import TRANSFORMS, own_scope
from vmt_mm.structures import DeferredWarp
from vmt_mm.tasks import LabelSpec, Warp
from vmt_mm.tasks.labels import IGNORE

#: ImageNet's mean colour in BGR, mmcv's channel order; 0 after normalisation.
MEAN_COLOR = (104, 116, 124)
_CROP_TRIES = 10  # crops to try before accepting one dominated by a class


def map_labels(
    results: dict, change: Callable[[LabelSpec, np.ndarray], np.ndarray], size: Sequence[int]
) -> None:
    """Replace labels by ``change(spec, label)``; raise InputError if ``size`` does not match."""
    if DeferredWarp.key in results:
        raise InputError("RandomWarp(on_device=True) must be the last geometric transform")
    for task, label in results.get("labels", {}).items():
        if label.shape[:2] != tuple(size[:2]):
            rule = "LoadLabels must come before or after all steps that resize, pad or move images"
            sizes = f"size {tuple(size[:2])}, its label of task {task!r} {label.shape[:2]}"
            raise InputError(f"{results.get('img_path')}: the image has {sizes}; {rule}")
        results["labels"][task] = change(results["label_specs"][task], label)


def _mark_moved(results: dict) -> dict:
    """Mark that labels loaded after this transform would not match the image."""
    results["moved"] = "labels" not in results
    return results


def make_warp(
    source: tuple[int, int],
    target: tuple[int, int],
    flip: bool = False,
    angle: float = 0.0,
    scale: float = 1.0,
) -> Warp:
    """Compose flip, rotation, zoom and resize into one warp from size ``source`` to ``target``.

    Sizes are (H, W), the angle is in degrees, counter-clockwise. Pixel centres are at integers, so
    an axis of n pixels spans [-0.5, n - 0.5].
    """
    before, after = np.array(source[::-1], float), np.array(target[::-1], float)
    cos, sin = np.cos(np.deg2rad(angle)), np.sin(np.deg2rad(angle))
    # y points down, so counter-clockwise as displayed is clockwise in these coordinates.
    linear = scale * np.array([[cos, sin], [-sin, cos]])
    if flip:
        linear = linear @ np.diag([-1.0, 1.0])
    linear = (after / before)[:, None] * linear
    matrix = np.column_stack([linear, (after - 1) / 2 - linear @ ((before - 1) / 2)])
    return Warp(matrix, (target[0], target[1]), flip, float(angle), float(scale))


@TRANSFORMS.register_module()
class RandomWarp(BaseTransform):
    """Random flip, rotation, zoom and resize to a fixed size, in a single interpolation.

    Order: flip, rotation and zoom about the centre within the image's frame, then a resize of the
    frame. Pixels from outside the image have no label for any task.

    Args:
        size: (width, height) of the output.
        flip_prob: probability of a horizontal flip.
        rotate: range of the angle in degrees, counter-clockwise as displayed.
        scale: range of the zoom factor, > 1 enlarges.
        fill: border colour in the image's channel order, or one value for all channels; None means
            ImageNet's mean; images loaded with ``color_type='unchanged'`` need a value.
        on_device: let :class:`MultiTaskDataPreprocessor` apply the warp on the model's device. For
            training only; no geometric transform may follow.
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
        ranges = 0 < scale[0] <= scale[1] and rotate[0] <= rotate[1]
        if not (ranges and min(size) >= 1 and 0 <= flip_prob <= 1):
            rule = "0 < low <= high in scale, low <= high in rotate, size >= 1, flip_prob in [0, 1]"
            raise InputError(
                f"RandomWarp needs {rule}; got {scale=}, {rotate=}, {size=}, {flip_prob=}"
            )
        self.size, self.flip_prob = tuple(size), flip_prob
        self.rotate, self.scale = tuple(rotate), tuple(scale)
        self.fill = (fill,) if isinstance(fill, (int, float)) else fill and tuple(fill)
        self.on_device = on_device

    def transform(self, results: dict) -> dict:
        """Warp the image and its labels, or store the warp for the device."""
        image = results["img"]
        source, fill = tuple(image.shape[:2]), self._fill_of(results)
        flip = bool(np.random.uniform() < self.flip_prob)
        angle, scale = (np.random.uniform(low, high) for low, high in (self.rotate, self.scale))
        warp = make_warp(source, (self.size[1], self.size[0]), flip, angle, scale)
        map_labels(results, lambda spec, x: x if self.on_device else spec.warp(x, warp), source)
        if self.on_device:
            specs = {task: results["label_specs"][task] for task in results.get("labels", {})}
            results[DeferredWarp.key] = DeferredWarp(warp, source, fill, specs)
        else:
            results["img"] = warp.apply(image, cv2.INTER_LINEAR, fill)
            results["img_shape"] = results["img"].shape[:2]
        return _mark_moved(results)

    def _fill_of(self, results: dict) -> tuple[float, ...]:
        """Return the border value of each channel."""
        channels = 1 if results["img"].ndim == 2 else results["img"].shape[2]
        fill = self.fill
        if fill is None:
            fill = MEAN_COLOR if channels == 3 else (round(sum(MEAN_COLOR) / 3),)
            fill = () if results.get("own_units") else fill
        if len(fill) not in (1, channels):
            raise InputError(
                f"{results.get('img_path')}: RandomWarp needs fill=(...), the border value of "
                f"each of {channels} channel(s), got {self.fill!r}"
            )
        return tuple(fill) if len(fill) == channels else tuple(fill) * channels


@TRANSFORMS.register_module()
class Resize(mmcv.transforms.Resize):
    """mmcv's ``Resize`` for all labels; ``nearest_labels``: nearest-neighbour for all of them."""

    unread = dict(clip_object_border="boxes are not supported")

    def __init__(self, *args: Any, nearest_labels: bool = False, **kwargs: Any) -> None:
        refuse_unread(Resize, kwargs)
        super().__init__(*args, **kwargs)
        if isinstance(self.scale, list):  # of an option; `keep_ratio` needs a tuple
            self.scale = tuple(self.scale)
        self.nearest_labels = nearest_labels

    def transform(self, results: dict) -> dict:
        """Resize the image and its labels."""
        if "content_shape" in results:
            raise InputError("Resize must come before Pad")
        before, nearest = results["img"].shape, self.nearest_labels
        results = super().transform(results)
        after = results["img"].shape[:2]
        map_labels(results, lambda spec, label: spec.resize(label, after, nearest), before)
        return results


@TRANSFORMS.register_module()
class RandomResize(mmcv.transforms.RandomResize):
    """mmcv's ``RandomResize`` for all labels; values are updated by the zoom of ``ratio_range``."""

    def __init__(
        self, scale: Any, ratio_range: Any = None, resize_type: str = "Resize", **kwargs: Any
    ) -> None:
        scale = scale if ratio_range is None else tuple(scale)
        super().__init__(scale, ratio_range, f"vmt_mm.{resize_type}", **kwargs)

    def transform(self, results: dict) -> dict:
        """Resize the image and its labels."""
        results = super().transform(results)
        if self.ratio_range is not None:
            zoom, size = results["scale"][0] / self.scale[0], results["img"].shape
            map_labels(results, lambda spec, label: spec.follow(label, Warp(scale=zoom)), size)
        return results


@TRANSFORMS.register_module()
class RandomFlip(mmcv.transforms.RandomFlip):
    """mmcv's ``RandomFlip`` for all labels, horizontal only."""

    unread = dict(swap_seg_labels="override LabelSpec.transform_values to swap classes")

    def __init__(
        self, prob: float | None = None, direction: str = "horizontal", **kwargs: Any
    ) -> None:
        if direction != "horizontal":
            raise InputError(f"RandomFlip: `direction` must be 'horizontal', got {direction!r}")
        refuse_unread(RandomFlip, kwargs)
        super().__init__(prob, direction, **kwargs)

    def _flip(self, results: dict) -> None:
        super()._flip(results)
        size, warp = results["img"].shape, Warp(flip=True)
        map_labels(results, lambda spec, x: spec.follow(x[:, ::-1].copy(), warp), size)
        if not results.get("turned_back"):
            _mark_moved(results)


@TRANSFORMS.register_module()
class Pad(mmcv.transforms.Pad):
    """mmcv's ``Pad`` for all labels; new pixels have no label.

    In test pipelines with ``Pad`` before ``LoadLabels``, predictions are cropped to the labels'
    native size.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        value = kwargs.get("pad_val")
        if isinstance(value, dict) and value.get("seg", IGNORE) != IGNORE:
            raise InputError(f"Pad: omit pad_val['seg']; it must be {IGNORE}, got {value['seg']!r}")
        super().__init__(*args, **kwargs)

    def transform(self, results: dict) -> dict:
        """Pad the image and its labels at the bottom and the right."""
        before = results["img"].shape
        results = super().transform(results)
        bottom, right = np.subtract(results["img"].shape[:2], before[:2])
        map_labels(results, lambda spec, label: spec.pad(label, bottom, right), before)
        if "labels" not in results:
            results["content_shape"] = before[:2]
        return results


@TRANSFORMS.register_module()
class RandomCrop(mmseg.datasets.transforms.RandomCrop):
    """mmseg's ``RandomCrop`` for all labels.

    Args:
        crop_size: (height, width), or one number for both, as in mmseg.
        cat_max_ratio: resample a crop, up to ten times, if it contains one class only, or if one
            class has at least this share of its labelled pixels. 1 disables this.
        size: (width, height), instead of ``crop_size``.
        cat_tasks: tasks that ``cat_max_ratio`` applies to; None means all tasks with classes.
    """

    unread = dict(ignore_index="each task defines its ignored value")

    def __init__(
        self,
        crop_size: int | Sequence[int] | None = None,
        cat_max_ratio: float = 1.0,
        size: Sequence[int] | None = None,
        cat_tasks: Sequence[str] | None = None,
    ) -> None:
        if (crop_size is None) == (size is None):
            raise InputError("RandomCrop needs crop_size (height, width) or size (width, height)")
        if not 0 < cat_max_ratio <= 1:
            raise InputError(f"RandomCrop: `cat_max_ratio` must be in (0, 1], got {cat_max_ratio}")
        box: Any = crop_size if size is None else size[::-1]
        super().__init__(box if isinstance(box, int) else tuple(box), cat_max_ratio)
        self.cat_tasks = cat_tasks

    def transform(self, results: dict) -> dict:
        """Crop the image and its labels."""
        before = results["img"].shape
        box = self._choose_box(results)
        results["img"] = self.crop(results["img"], box)
        results["img_shape"] = results["img"].shape[:2]
        map_labels(results, lambda _, label: self.crop(label, box), before)
        return _mark_moved(results)

    def _choose_box(self, results: dict) -> tuple[int, int, int, int]:
        (height, width), (rows, columns) = results["img"].shape[:2], self.crop_size
        for _ in range(_CROP_TRIES):
            top = np.random.randint(max(height - rows, 0) + 1)
            left = np.random.randint(max(width - columns, 0) + 1)
            box = (top, top + rows, left, left + columns)
            if self.cat_max_ratio >= 1 or self._is_varied(results, box):
                break
        return box

    def _is_varied(self, results: dict, box: tuple[int, int, int, int]) -> bool:
        specs, labels = results.get("label_specs", {}), results.get("labels", {})
        with_classes = [task for task, spec in specs.items() if spec.categorical]
        chosen = with_classes if self.cat_tasks is None else self.cat_tasks
        if wrong := [task for task in chosen if task in specs and task not in with_classes]:
            raise InputError(f"RandomCrop: `cat_tasks` {wrong} have no classes; use {with_classes}")
        for task in labels.keys() & set(chosen):
            crop = self.crop(labels[task], box)
            counts = np.bincount(crop[crop != specs[task].fill])
            if (counts > 0).sum() < 2 or counts.max() / counts.sum() >= self.cat_max_ratio:
                return False
        return True


@TRANSFORMS.register_module()
class TestTimeAug(mmcv.transforms.TestTimeAug):
    """mmcv's ``TestTimeAug``: labels are not augmented; the model undoes flips of its outputs."""

    __test__ = False  # pytest would collect it by its name

    def __init__(self, transforms: list) -> None:
        with own_scope():
            super().__init__([list(alternatives) for alternatives in transforms])

    def transform(self, results: dict) -> dict:
        """Create all views of the image: every entry of ``results`` becomes a list."""
        return super().transform(dict(results, turned_back=True))
