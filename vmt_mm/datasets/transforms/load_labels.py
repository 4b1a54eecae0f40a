"""Load labels, and pack samples for the model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from mmcv.transforms import BaseTransform

from vmt_mm.errors import InputError
from vmt_mm.registry import TRANSFORMS
from vmt_mm.structures import DeferredWarp, MultiTaskDataSample
from vmt_mm.tasks.labels import channels_first
from vmt_mm.utils.compat import from_numpy
from vmt_mm.utils.image_files import orientation_of

_META_KEYS = (
    *("sample_id", "img_path", "ori_shape", "img_shape", "label_shape", "skipped", "flip"),
)


@TRANSFORMS.register_module()
class LoadLabels(BaseTransform):
    """Read the label files that exist into ``results['labels']``, by task.

    After ``Resize`` or ``Pad`` in a test pipeline, labels keep their native size, and predictions
    get it; before, both have that of the network's input. If ``results['on_error']`` is 'skip', a
    file that cannot be used counts as missing, and is noted in ``results['skipped']``.

    Raises:
        InputError: if a file cannot be read or has another size than the image.
    """

    def transform(self, results: dict) -> dict:
        """Add ``labels``, by task, and ``labels_native``: whether the image alone was resized."""
        if results.get("moved"):
            raise InputError("LoadLabels must stand before transforms other than Resize and Pad")
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
        label = spec.decode(path) if label is None else spec.interpret(label)
        if problem := size_problem(path, label.shape[:2], results["img_path"], native):
            raise InputError(problem)
        return label


def size_problem(
    path: str, label: tuple[int, int], image_path: str, image: tuple[int, int]
) -> str | None:
    """What is wrong with the sizes (H, W) of a label and its image; None if they are the same."""
    if tuple(label) == tuple(image):
        return None
    problem = f"{path}: label of size {label} (height, width), but {image_path} has {image}"
    try:
        orientation = orientation_of(Path(image_path).read_bytes())
    except OSError:
        orientation = 1
    if orientation >= 5 and tuple(label) == tuple(image)[::-1]:
        problem += (
            f"; its EXIF orientation is {orientation}: labels of the turned image need "
            "LoadImageFromFile(turn_by_exif=True), others False, in all pipelines"
        )
    return problem


@TRANSFORMS.register_module()
class PackMultiTaskInputs(BaseTransform):
    """Make the model's inputs: ``inputs`` (C, H, W) and a ``MultiTaskDataSample``.

    Args:
        meta_keys: entries of the sample that become its metainfo, where present.

    Raises:
        InputError: if a transform moved the image and left the labels behind.
    """

    def __init__(self, meta_keys: Sequence[str] = _META_KEYS) -> None:
        self.meta_keys = tuple(meta_keys)

    def transform(self, results: dict) -> dict:
        """Pack."""
        image = results["img"]
        if results.get("is_deep") and image.dtype == np.uint8:
            problem = "is not of 8 bits; remove PhotoMetricDistortion, which cuts it to them"
            raise InputError(f"{results.get('img_path')}: {problem}")
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
            wanted = deferred.warp.size if warped else expected
            _check_size(results, f"label of task {task!r}", label.shape[:2], wanted)
            sample.set_label(task, results["label_specs"][task].to_tensor(label))
        return dict(inputs=from_numpy(channels_first(image)), data_samples=sample)


def _check_size(results: dict, what: str, size: tuple[int, int], expected: tuple[int, int]) -> None:
    if tuple(size) != tuple(expected):
        raise InputError(
            f"{results.get('img_path')}: the {what} has size {tuple(size)}, expected {expected}; a "
            "transform of the pipeline moves the image and not the labels"
        )
