"""Load images and labels exactly as stored, refuse invalid files, and pack samples."""

import math
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import mmcv
import mmcv.transforms
import numpy as np
from mmcv.transforms import BaseTransform
from mmengine import fileio

from vmt_mm.errors import CorruptFileError, InputError, refuse_unread
from vmt_mm.registry import TRANSFORMS
from vmt_mm.structures import DeferredWarp, MultiTaskDataSample
from vmt_mm.tasks.labels import IGNORE, channels_first
from vmt_mm.utils.compat import from_numpy
from vmt_mm.utils.image_files import decode_stored, orientation_of

IMAGE = "images"  # key of the image among cached arrays; no task has this name
_STAND_IN = (64, 64, 3)  # shape of the black placeholder for a skipped image
_META_KEYS = ["sample_id", "img_path", "ori_shape", "img_shape", "label_shape", "skipped", "flip"]


@TRANSFORMS.register_module()
class LoadImageFromFile(mmcv.transforms.LoadImageFromFile):
    """mmcv's ``LoadImageFromFile`` that also reads high-bit-depth and multispectral images.

    Raises CorruptFileError if a file is truncated or does not match the settings. Images come from
    the dataset's cache if it has one.

    Args:
        turn_by_exif: apply the EXIF orientation, for labels drawn on the rotated image. Default
            False: pixels as stored, like label files.
        value_range: (low, high), mapped to 0..255 as float32 with clipping. None accepts only 8-bit
            images, or with 'unchanged' any values, as they are (float32 if not 8-bit).
        kwargs: see ``mmcv.transforms.LoadImageFromFile``; ``color_type`` is 'color' for three
            channels (BGR), 'grayscale' for one, 'unchanged' for all that are stored, with alpha.
    """

    unread = dict(
        ignore_empty="set on_error='skip' on the dataset to skip unreadable files",
        file_client_args="use backend_args",
    )

    def __init__(
        self,
        *args: Any,
        turn_by_exif: bool = False,
        value_range: Sequence[float] | None = None,
        **kwargs: Any,
    ) -> None:
        refuse_unread(LoadImageFromFile, kwargs)
        super().__init__(*args, **kwargs)
        if self.color_type not in ("color", "grayscale", "unchanged"):
            rule, found = "'color', 'grayscale' or 'unchanged'", self.color_type
            raise InputError(f"LoadImageFromFile: `color_type` must be {rule}, got {found!r}")
        if value_range is not None and not _is_range(value_range):
            rule = "`value_range` must be numbers (low, high) with low < high"
            raise InputError(f"LoadImageFromFile: {rule}, got {value_range!r}")
        self.turn_by_exif = turn_by_exif
        self.value_range = value_range and tuple(value_range)
        self.as_stored = self.color_type == "unchanged"
        flag = "unchanged" if self.as_stored else f"{self.color_type}_ignore_orientation"
        self._decode_plain = partial(mmcv.imfrombytes, flag=flag, backend=self.imdecode_backend)

    @property
    def settings(self) -> str:
        """Settings that change pixel values, as a part of a cache key."""
        return f"{self.color_type, self.value_range, self.turn_by_exif, self.imdecode_backend}"

    def transform(self, results: dict) -> dict:
        """Add ``img`` (H, W, 3) BGR, ``img_shape``, ``ori_shape``, ``is_deep`` and ``own_units``.

        ``is_deep``: not 8-bit; ``own_units``: values are not colours in 0..255.
        """
        path = results["img_path"]
        image = results.get("stored", {}).get(IMAGE)
        if results.get("stand_in"):  # placeholder for an unreadable image in test mode
            if self.as_stored:
                rule = "color_type='unchanged' has no placeholder; remove its id from `ann_file`"
                raise InputError(f"{path}: cannot be read, and {rule}")
            image = np.zeros(_STAND_IN[: 3 if self.color_type == "color" else 2], np.uint8)
        elif image is None:
            image = self.read(path)
        results["is_deep"] = image.dtype != np.uint8
        own = self.as_stored and self.value_range is None
        results["own_units"] = own and (results["is_deep"] or image.shape[2:] != (3,))
        results["img"] = image.astype(np.float32) if self.to_float32 else image
        results["img_shape"] = results["ori_shape"] = image.shape[:2]
        return results

    def read(self, path: str) -> np.ndarray:
        """Read an image: (H, W, 3) BGR, (H, W) if 'grayscale', (H, W[, C]) if 'unchanged'."""
        return self.decode(self.fetch(path), path)

    def fetch(self, path: str) -> bytes:
        """Read the bytes of an image file."""
        try:
            return fileio.get(path, backend_args=self.backend_args)
        except OSError as error:
            raise CorruptFileError(f"{path}: {error.strerror}; expected an image") from None

    def decode(self, content: bytes, name: str) -> np.ndarray:
        """Decode the bytes of a file, called ``name`` in errors."""
        return self.take(decode_stored(content, name, self._decode_plain, self.turn_by_exif), name)

    def take(self, values: np.ndarray, name: str) -> np.ndarray:
        """Convert decoded pixels (H, W[, C]) to an image, uint8 or float32, by ``color_type``."""
        if values.ndim == 3 and values.shape[2] == 1:
            values = values[..., 0]
        if values.dtype.kind not in "uif" or values.ndim not in (2, 3) or not values.size:
            found = f"{values.dtype} {values.shape}"
            raise CorruptFileError(f"{name}: expected an image (H, W) or (H, W, C), got {found}")
        if not self.as_stored and values.ndim == 3:
            values = self._three_channels(values, name)
        if values.dtype != np.uint8 or self.value_range:
            values = self._in_range(values, name)
        if self.color_type == "color" and values.ndim == 2:
            return cv2.cvtColor(values, cv2.COLOR_GRAY2BGR)
        if self.color_type == "grayscale" and values.ndim == 3:
            return cv2.cvtColor(values, cv2.COLOR_BGR2GRAY)
        return values

    def _three_channels(self, values: np.ndarray, name: str) -> np.ndarray:
        """Drop an opaque alpha channel; raise CorruptFileError unless three channels remain."""
        channels, kind = values.shape[2], values.dtype
        if channels == 4 and kind.kind == "u" and (values[..., 3] == np.iinfo(kind).max).all():
            return np.ascontiguousarray(values[..., :3])
        if channels != 3:
            transparent = channels == 4 and kind.kind == "u"
            found = "transparent pixels" if transparent else f"{channels} channels of {kind}"
            raise CorruptFileError(
                f"{name}: has {found}; save it with 1 or 3 channels, or set "
                f"LoadImageFromFile(color_type='unchanged') in all pipelines, {channels} values in "
                f"data_preprocessor.mean and std, and backbone.in_channels={channels}"
            )
        return values

    def _in_range(self, values: np.ndarray, name: str) -> np.ndarray:
        """Convert high-bit-depth values to float32, mapped to 0..255 if ``value_range`` is set."""
        if values.dtype.kind == "f" and not np.isfinite(values).all():
            raise CorruptFileError(f"{name}: contains NaN or infinite values")
        found = f"{name}: has {values.dtype} values in [{values.min():g}, {values.max():g}]"
        if self.value_range is None:
            if not self.as_stored:
                raise CorruptFileError(
                    f"{found}, not 8 bits; in all pipelines, set LoadImageFromFile("
                    "value_range=(low, high)), or color_type='unchanged' with their mean and std"
                )
            return values.astype(np.float32)
        low, high = self.value_range
        small = values.dtype.kind != "f" and high > np.iinfo(values.dtype).max
        if small or values.max() < low or values.min() > high:
            raise CorruptFileError(f"{found}, which do not match value_range={self.value_range}")
        scaled = (values.astype(np.float64) - low) * (255 / (high - low))
        return np.clip(scaled, 0, 255).astype(np.float32)


def _is_range(values: Any) -> bool:
    numbers = isinstance(values, (list, tuple)) and all(isinstance(v, (int, float)) for v in values)
    return numbers and len(values) == 2 and -math.inf < values[0] < values[1] < math.inf


def reader_of(dataset: Any) -> LoadImageFromFile:
    """Return the image loader of a dataset, inside wrappers; with several members, the first."""
    if inner := getattr(dataset, "datasets", None) or getattr(dataset, "dataset", None):
        return reader_of(inner[0] if isinstance(inner, list) else inner)
    steps = getattr(getattr(dataset, "pipeline", None), "transforms", ())
    return next((s for s in steps if isinstance(s, LoadImageFromFile)), LoadImageFromFile())


def displayable(image: np.ndarray) -> np.ndarray:
    """Convert an image (H, W[, C]) of any type and channels to (H, W, 3) BGR uint8 for display."""
    if image.dtype != np.uint8:
        low, high = float(image.min()), float(image.max())
        if not 1 < high <= 255 or low < 0:
            image = (image - low) * (255 / max(high - low, 1e-12))
        image = np.rint(image).astype(np.uint8)
    if image.ndim == 3 and image.shape[2] in (3, 4):
        return np.ascontiguousarray(image[..., :3])
    grey = image if image.ndim == 2 else np.ascontiguousarray(image[..., 0])
    return cv2.cvtColor(grey, cv2.COLOR_GRAY2BGR)


@TRANSFORMS.register_module()
class LoadLabels(BaseTransform):
    """Load existing label files into ``results['labels']``, keyed by task.

    Placed after ``Resize`` or ``Pad`` in a test pipeline, it loads labels at their native size, and
    predictions are resized to it. An invalid file, or one whose size differs from the image, raises
    InputError; if ``results['on_error']`` is 'skip', it is added to ``results['skipped']`` instead.
    """

    def transform(self, results: dict) -> dict:
        """Add ``labels`` per task, and ``labels_native``: whether only the image was resized."""
        if results.get("moved"):
            raise InputError(
                "LoadLabels must come before geometric transforms except Resize and Pad"
            )
        native = tuple(results["ori_shape"][:2])
        results["labels"] = {}
        for task, path in results["label_paths"].items():
            try:
                results["labels"][task] = self._load(results, task, path, native)
            except InputError as error:
                if results.get("on_error") != "skip":
                    raise
                results["skipped"][path] = str(error)
        results["labels_native"] = tuple(results["img"].shape[:2]) != native
        return results

    def _load(self, results: dict, task: str, path: str, native: tuple[int, int]) -> np.ndarray:
        spec, label = results["label_specs"][task], results.get("stored", {}).get(task)
        interpret = spec.interpret if spec.keeps_file_values else np.asarray
        label = spec.decode(path) if label is None else interpret(label)
        if problem := size_problem(path, label.shape[:2], results["img_path"], native):
            raise InputError(problem)
        return label


@TRANSFORMS.register_module()
class DeriveLabel(BaseTransform):
    """Add a label that follows from the same image's label of another segmentation task.

    Example: pixels that ``objects`` labels as not a person are background of ``human_parts``. The
    dataset need not have ``task``. Images with a label of ``task``, or without one of ``source``,
    are not changed. Used in training pipelines, after ``LoadLabels``.

    Args:
        task: segmentation task that gets a label.
        source: segmentation task whose label is read.
        classes: for each class of ``source``, the class of ``task``, or 255 for no label.
    """

    def __init__(self, task: str, source: str, classes: Sequence[int]) -> None:
        listed = isinstance(classes, (list, tuple)) and 0 < len(classes) <= IGNORE
        if not listed or not all(isinstance(n, int) and 0 <= n <= IGNORE for n in classes):
            rule = f"must list an integer in [0, {IGNORE}] for each class of `source`"
            raise InputError(f"DeriveLabel: `classes` {rule}, got {classes!r}")
        self.task, self.source = task, source
        self.table = np.full(IGNORE + 1, IGNORE, np.uint8)
        self.table[: len(classes)] = classes

    def transform(self, results: dict) -> dict:
        """Add ``labels[task]``, with the label spec of ``source`` if the dataset lacks ``task``."""
        if "labels" not in results:
            raise InputError("DeriveLabel must come after LoadLabels")
        labels, specs = results["labels"], results["label_specs"]
        if self.source in labels and self.task not in labels:
            if not specs[self.source].categorical:
                raise InputError(f"DeriveLabel: task {self.source!r} is not a segmentation task")
            labels[self.task] = self.table[labels[self.source]]
            results["label_specs"] = {self.task: specs[self.source], **specs}
        return results


def size_problem(
    path: str, label: tuple[int, int], image_path: str, image: tuple[int, int]
) -> str | None:
    """Return a message if the sizes (H, W) of a label and its image differ, else None."""
    if tuple(label) == tuple(image):
        return None
    problem = f"{path}: label of size {label} (height, width), but {image_path} has {image}"
    if tuple(label) == tuple(image)[::-1] and Path(image_path).is_file():
        orientation = orientation_of(Path(image_path).read_bytes())
        if orientation >= 5:
            problem += (
                f"; its EXIF orientation is {orientation}: set LoadImageFromFile(turn_by_exif="
                "True) in all pipelines if labels were drawn on the rotated image, else False"
            )
    return problem


@TRANSFORMS.register_module()
class PackMultiTaskInputs(BaseTransform):
    """Pack ``inputs`` (C, H, W) and a :class:`~vmt_mm.structures.MultiTaskDataSample`.

    Entries listed in ``meta_keys`` become its metainfo. Raises InputError if a transform moved the
    image without its labels.
    """

    def __init__(self, meta_keys: Sequence[str] = _META_KEYS) -> None:
        self.meta_keys = tuple(meta_keys)

    def transform(self, results: dict) -> dict:
        """Return ``dict(inputs=..., data_samples=...)``."""
        image = results["img"]
        if results.get("is_deep") and image.dtype == np.uint8:
            problem = "loaded as float32, but made 8-bit by PhotoMetricDistortion or similar"
            raise InputError(f"{results.get('img_path')}: {problem}; remove this transform")
        size = tuple(image.shape[:2])
        expected = tuple(results["ori_shape"][:2]) if results.get("labels_native") else size
        if "labels" in results:
            results["label_shape"] = expected
        results["img_shape"] = tuple(results.get("content_shape", size))
        # `img_shape`: size without padding; `pad_shape`: size before batch padding
        metainfo = {key: results[key] for key in self.meta_keys if key in results}
        sample = MultiTaskDataSample(metainfo=dict(metainfo, pad_shape=size))
        deferred: DeferredWarp | None = results.get(DeferredWarp.key)
        if deferred:
            sample.set_metainfo({DeferredWarp.key: deferred})
            _check_size(results, "image", size, deferred.source)
        for task, label in results.get("labels", {}).items():
            warped = deferred is not None and task not in deferred.specs
            wanted = deferred.warp.size if deferred and warped else expected
            _check_size(results, f"label of task {task!r}", label.shape[:2], wanted)
            sample.set_label(task, results["label_specs"][task].to_tensor(label))
        return dict(inputs=from_numpy(channels_first(image)), data_samples=sample)


def _check_size(results: dict, what: str, size: tuple[int, int], expected: tuple[int, int]) -> None:
    if tuple(size) != tuple(expected):
        sizes = f"(height, width) {tuple(size)}, expected {tuple(expected)}"
        problem = "a transform of the pipeline resizes or crops the image without its labels"
        raise InputError(f"{results.get('img_path')}: the {what} has {sizes}; {problem}")
