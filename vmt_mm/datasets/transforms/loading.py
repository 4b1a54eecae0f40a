"""Load labels and pack samples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import mmcv
import mmcv.transforms
import numpy as np
from mmcv.transforms import BaseTransform
from mmengine import fileio

from vmt_mm.datasets.transforms.image_values import UNCHANGED, ImageValues
from vmt_mm.errors import CorruptFileError, InputError, refuse_unread
from vmt_mm.registry import TRANSFORMS
from vmt_mm.structures import DeferredWarp, MultiTaskDataSample
from vmt_mm.tasks.labels import channels_first
from vmt_mm.utils.compat import from_numpy
from vmt_mm.utils.image_files import decode_stored, orientation_of

#: Name of the image among a sample's cached arrays, which no task has.
IMAGE = "images"
#: Side of the black image that stands in for one that is skipped; Resize brings it to size.
_STAND_IN_SIDE = 64


@TRANSFORMS.register_module()
class LoadImageFromFile(mmcv.transforms.LoadImageFromFile):
    """mmcv's ``LoadImageFromFile`` that reads what a file holds, or says why not.

    Pixels are taken as the file stores them, as label files are: an EXIF orientation turns nothing
    unless ``turn_by_exif`` is set. Where the data set keeps a cache, the image comes from there.

    Args:
        turn_by_exif: turn each image as its EXIF orientation says, for labels that were drawn on
            the turned image.
        value_range: (low, high), the values that become 0 and 255, for images that are not of 8
            bits; see :class:`~vmt_mm.datasets.transforms.image_values.ImageValues`.
        background: colour (blue, green, red) behind transparent pixels.
        color_type: 'color', 'grayscale' or 'unchanged'.
        kwargs: see ``mmcv.transforms.LoadImageFromFile``.

    Raises:
        CorruptFileError: if the file is empty, truncated, no image, or holds what would be lost.
    """

    unread = dict(
        ignore_empty="the dataset's on_error='skip' leaves out what cannot be read",
        file_client_args="use backend_args",
    )

    def __init__(
        self,
        *args: Any,
        turn_by_exif: bool = False,
        value_range: Sequence[float] | None = None,
        background: Sequence[float] | None = None,
        **kwargs: Any,
    ) -> None:
        refuse_unread(LoadImageFromFile, kwargs)
        super().__init__(*args, **kwargs)
        self.turn_by_exif = turn_by_exif
        self.values = ImageValues(
            self.color_type.removesuffix("_ignore_orientation"),
            tuple(value_range) if isinstance(value_range, list) else value_range,
            tuple(background) if isinstance(background, list) else background,
        )
        self._flag = self.color_type
        if self.values.color_type != UNCHANGED and self.imdecode_backend != "turbojpeg":
            self._flag = f"{self.values.color_type}_ignore_orientation"

    @property
    def settings(self) -> str:
        """What decides how an image is read."""
        return f"{self.values} {self.imdecode_backend} {self.turn_by_exif}"

    def transform(self, results: dict) -> dict:
        """Add ``img`` (H, W, 3) BGR, ``img_shape``, ``ori_shape``, and what kind of values it has.

        ``is_deep``: not 8 bits; ``own_units``: no colours of 0..255.
        """
        if results.get("stand_in"):
            image = self._stand_in(results["img_path"])
        else:
            image = results.get("stored", {}).get(IMAGE)
            image = self.read(results["img_path"]) if image is None else image
        results["is_deep"] = image.dtype != np.uint8
        own = self.values.color_type == UNCHANGED and self.values.value_range is None
        results["own_units"] = own and (results["is_deep"] or image.shape[2:] != (3,))
        results["img"] = image.astype(np.float32) if self.to_float32 else image
        results["img_shape"] = results["ori_shape"] = image.shape[:2]
        return results

    def _stand_in(self, path: str) -> np.ndarray:
        """What is in place of a damaged image in a test."""
        if self.values.color_type == UNCHANGED:
            raise InputError(
                f"{path}: cannot be read, and color_type='unchanged' does not say how many "
                "channels an image in its place would have; leave it out of the list of ids"
            )
        black = np.zeros((_STAND_IN_SIDE, _STAND_IN_SIDE), np.uint8)
        return replace(self.values, value_range=None)(black, path)

    def read(self, path: str) -> np.ndarray:
        """Read an image (H, W, 3) BGR, or as ``color_type`` says."""
        return self.decode(self.fetch(path), path)

    def fetch(self, path: str) -> bytes:
        """The content of an image file."""
        try:
            return fileio.get(path, backend_args=self.backend_args)
        except OSError as error:
            raise CorruptFileError(f"{path}: {error.strerror}; expected an image") from None

    def decode(self, content: bytes, name: str, turn: bool | None = None) -> np.ndarray:
        """Decode a file's content.

        Args:
            content: the file.
            name: what errors call it.
            turn: by its EXIF orientation; None does as ``turn_by_exif`` says.
        """
        plain = partial(mmcv.imfrombytes, flag=self._flag, backend=self.imdecode_backend)
        turn = self.turn_by_exif if turn is None else turn
        return self.take(decode_stored(content, name, plain, turn), name)

    def take(self, values: np.ndarray, name: str) -> np.ndarray:
        """Make an image of stored pixels, (H, W) or (H, W, C), by the same rule as of a file's."""
        return self.values(values, name)


def reader_of(dataset: Any) -> LoadImageFromFile:
    """What reads a data set's images, inside wrappers as well; of several data sets the first's."""
    inner = [*getattr(dataset, "datasets", ()), getattr(dataset, "dataset", None)]
    if inner[0] is not None:
        return reader_of(inner[0])
    steps = getattr(getattr(dataset, "pipeline", None), "transforms", ())
    return next((s for s in steps if isinstance(s, LoadImageFromFile)), LoadImageFromFile())


@TRANSFORMS.register_module()
class LoadLabels(BaseTransform):
    """Read the label files that exist into ``results['labels']``, by task.

    Placed after ``Resize`` or ``Pad`` in a test pipeline, as in mmseg, the labels keep their native
    size, and predictions get it; placed before, both have that of the network's input.
    If ``results['on_error']`` is 'skip', a file that cannot be used counts as missing, and is noted
    in ``results['skipped']``.

    Raises:
        InputError: if a file is unreadable, of another kind, or of another size than the image, or
            if a transform other than Resize and Pad moved the image before.
    """

    def transform(self, results: dict) -> dict:
        """Add ``labels`` (task -> array), and ``labels_native``.

        The flag says whether the labels keep the image's native size while the image has been
        brought to another; where both sizes are the same there is nothing to tell apart.
        """
        if results.get("moved"):
            raise InputError(
                "LoadLabels stands after a transform that moves the image; only Resize and Pad may"
                " be before it"
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
        if label is None:
            label = spec.decode(path)
        elif spec.cacheable_raw:
            label = spec.interpret(label)
        if label.shape[:2] != native:
            raise InputError(
                f"{path}: label of size {label.shape[:2]} (height, width), "
                f"but {results['img_path']} has {native}"
                + other_frame(results["img_path"], label.shape[:2], native)
            )
        return label


def other_frame(path: str, label: tuple[int, int], image: tuple[int, int]) -> str:
    """The end of a message about two sizes, where the image's EXIF orientation explains them."""
    try:
        orientation = orientation_of(Path(path).read_bytes())
    except OSError:
        return ""
    if orientation < 5 or tuple(label) != tuple(image)[::-1]:
        return ""
    return (
        f"; its EXIF orientation is {orientation}, and the label is in the other frame: labels of "
        "the turned image need LoadImageFromFile(turn_by_exif=True), those of the stored pixels "
        "turn_by_exif=False, in the pipelines for training and test"
    )


@TRANSFORMS.register_module()
class PackMultiTaskInputs(BaseTransform):
    """Make the model's inputs: ``inputs`` (3, H, W) uint8 and a ``MultiTaskDataSample``.

    Args:
        meta_keys: entries of the sample that become its metainfo, where present.

    Raises:
        InputError: if a label's size is not the image's, because some transform moved the image
            and left the labels behind.
    """

    def __init__(
        self,
        meta_keys: Sequence[str] = (
            "sample_id",
            "img_path",
            "ori_shape",
            "img_shape",
            "label_shape",
            "skipped",
            "flip",
        ),
    ) -> None:
        self.meta_keys = tuple(meta_keys)

    def transform(self, results: dict) -> dict:
        """Pack."""
        image = results["img"]
        if results.get("is_deep") and image.dtype == np.uint8:
            raise InputError(
                f"{results.get('img_path')}: is not of 8 bits, and a transform cuts it to "
                "them, as PhotoMetricDistortion does; leave that out of the pipeline"
            )
        size = tuple(image.shape[:2])
        expected = tuple(results["ori_shape"][:2]) if results.get("labels_native") else size
        if "labels" in results:
            results["label_shape"] = expected
        results["img_shape"] = tuple(results.get("content_shape", size))
        metainfo = {key: results[key] for key in self.meta_keys if key in results}
        # `img_shape` says where the image ends; this, what a batch must not add to
        sample = MultiTaskDataSample(metainfo=dict(metainfo, pad_shape=size))
        deferred: DeferredWarp | None = results.get(DeferredWarp.key)
        if deferred:
            sample.set_metainfo({DeferredWarp.key: deferred})
            _check_size(results, "image", size, deferred.source)
        for task, label in results.get("labels", {}).items():
            warped = deferred and task not in deferred.specs
            _check_size(
                results,
                f"label of task {task!r}",
                label.shape[:2],
                deferred.warp.size if warped else expected,
            )
            sample.set_label(task, results["label_specs"][task].to_tensor(label))
        inputs = from_numpy(channels_first(image))
        return dict(inputs=inputs, data_samples=sample)


def _check_size(results: dict, what: str, size: tuple[int, int], expected: tuple[int, int]) -> None:
    if tuple(size) != tuple(expected):
        raise InputError(
            f"{results.get('img_path')}: the {what} has size {tuple(size)} where {expected} is "
            "expected; a transform of the pipeline moves the image and not the labels"
        )
