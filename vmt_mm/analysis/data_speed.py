"""Time the data pipeline: from files, from a cache, and as a straightforward pipeline does it."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import cv2
import mmcv
import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader

from vmt_mm.datasets import MultiTaskDataset
from vmt_mm.datasets.transforms import RandomWarp
from vmt_mm.errors import InputError

#: ImageNet's mean and standard deviation, RGB, 0..255.
_MEAN, _STD = np.float32([123.675, 116.28, 103.53]), np.float32([58.395, 57.12, 57.375])


class PlainPipeline:
    """A straightforward pipeline for the same samples, with none of this package's code.

    It decodes the files, makes everything float32, as the field's multi-task code does, and
    rotates, zooms, flips and resizes image and labels one step after another, by linear
    interpolation or the nearest pixel. Labels with three channels are unit vectors.

    Args:
        dataset: the samples.
        warp: ranges and size.
    """

    def __init__(self, dataset: MultiTaskDataset, warp: RandomWarp) -> None:
        self.dataset, self.warp = dataset, warp

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        info = self.dataset.get_data_info(int(index))
        arrays = {"image": cv2.imread(info["img_path"]).astype(np.float32)}
        for task, path in info["label_paths"].items():
            with Image.open(path) as image:  # cv2 expands palettes to colours
                label = np.array(image).astype(np.float32)
            arrays[task] = label * (2 / 255) - 1 if label.ndim == 3 else label
        angle, scale = np.random.uniform(*self.warp.rotate), np.random.uniform(*self.warp.scale)
        flip = np.random.uniform() < self.warp.flip_prob
        sin, cos = np.sin(np.deg2rad(angle)), np.cos(np.deg2rad(angle))
        rotation = np.float32([[cos, sin, 0], [-sin, cos, 0], [0, 0, 1]])
        rotation[:, 0] *= -1 if flip else 1
        height, width = arrays["image"].shape[:2]
        for name, array in arrays.items():
            how = cv2.INTER_LINEAR if array.ndim == 3 else cv2.INTER_NEAREST
            for turn, zoom in ((angle, 1.0), (0.0, scale)):
                center = ((width - 1) / 2, (height - 1) / 2)
                matrix = cv2.getRotationMatrix2D(center, turn, zoom)
                array = cv2.warpAffine(array, matrix, (width, height), flags=how)
            array = cv2.flip(array, 1) if flip else array
            array = cv2.resize(array, self.warp.size, interpolation=how)
            if name == "image":
                array = mmcv.imnormalize(array, _MEAN, _STD, to_rgb=True)
            elif array.ndim == 3:
                array = array @ rotation
                array /= np.maximum(np.linalg.norm(array, axis=-1, keepdims=True), 1e-12)
            arrays[name] = np.ascontiguousarray(np.atleast_3d(array).transpose(2, 0, 1))
        return {name: torch.from_numpy(array) for name, array in arrays.items()}


class _Timed:
    """A transform that adds up how long it takes."""

    def __init__(self, transform: Callable[[dict], dict]) -> None:
        self.transform, self.seconds = transform, 0.0

    def __call__(self, results: dict) -> dict:
        start = time.thread_time()
        results = self.transform(results)
        self.seconds += time.thread_time() - start
        return results


def find_warp(dataset: MultiTaskDataset) -> RandomWarp:
    """The pipeline's RandomWarp, which the plain pipeline imitates."""
    warp = next((t for t in dataset.pipeline.transforms if isinstance(t, RandomWarp)), None)
    if warp is None:
        raise InputError(
            "the training pipeline has no RandomWarp, which is what the plain pipeline imitates"
        )
    if warp.on_device:
        raise InputError(
            "the plain pipeline warps on the CPU; compare it with augment_on_device=False"
        )
    return warp


def measure(
    pipelines: Mapping[str, Any],
    images: int,
    repeats: int,
    workers: int = 0,
    advance: Callable[[], object] = lambda: None,
) -> dict[str, Any]:
    """Time pipelines in turn, so that a slow phase of the machine hits all of them alike.

    Without workers each runs on one thread, and what counts is the time of that thread on a core,
    without waiting for a disk. With workers it is the time of a pass over the images.

    Args:
        pipelines: name -> data set of that many images; 'plain' is what others compare with.
        images: how many.
        repeats: rounds that are timed, after one that is not.
        workers: data-loading processes.
        advance: called after each round.

    Returns:
        ``pipelines``: name -> ``ms`` per image, the median over the rounds, and ``images_per_s``;
        ``times_plain``: name -> speed relative to 'plain'; ``stages``: name -> transform -> ms.
    """
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    rounds: dict[str, list[float]] = {name: [] for name in pipelines}
    for _ in range(repeats + 1):
        for name, pipeline in pipelines.items():
            rounds[name].append(_pass(pipeline, images, workers))
        advance()
    ms = {name: 1000 * float(np.median(seconds[1:])) for name, seconds in rounds.items()}
    stages = {}
    for name, pipeline in pipelines.items():
        if isinstance(pipeline, MultiTaskDataset):
            timed = pipeline.pipeline.transforms = list(map(_Timed, pipeline.pipeline.transforms))
            _pass(pipeline, images, workers=0)
            stages[name] = {type(t.transform).__name__: 1000 * t.seconds / images for t in timed}
    return dict(
        pipelines={name: dict(ms=value, images_per_s=1000 / value) for name, value in ms.items()},
        times_plain={name: ms["plain"] / value for name, value in ms.items() if name != "plain"},
        stages=stages,
    )


def _pass(pipeline: Any, images: int, workers: int) -> float:
    """Seconds per image of a pass; of workers, without the first image, so without their start."""
    if not workers:
        start = time.thread_time()
        for index in range(images):
            pipeline[index]
        return (time.thread_time() - start) / images
    loader = DataLoader(pipeline, batch_size=None, sampler=range(images), num_workers=workers)
    samples = iter(loader)
    next(samples)
    start = time.perf_counter()
    rest = sum(1 for _ in samples)
    return (time.perf_counter() - start) / max(rest, 1)
