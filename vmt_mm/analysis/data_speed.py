"""Time the data pipeline: from files, from a cache, and as a straightforward pipeline does it.

Letters: H, W height and width in pixels.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from statistics import median
from typing import Any

import cv2
import mmcv
import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader

from vmt_mm.datasets import MultiTaskDataset, SeededIndex
from vmt_mm.datasets.transforms import RandomWarp
from vmt_mm.errors import InputError
from vmt_mm.tasks.labels import channels_first
from vmt_mm.utils.compat import from_numpy
from vmt_mm.utils.processes import start_worker

#: ImageNet's mean and standard deviation, RGB, 0..255.
_MEAN, _STD = np.float32([123.675, 116.28, 103.53]), np.float32([58.395, 57.12, 57.375])

#: Images after which the next pipeline has its turn: most of them find memory and caches as their
#: own pipeline leaves them.
_BLOCK = 10


class PlainPipeline:
    """What a straightforward pipeline does to the same samples, with none of this package's code.

    It decodes the files anew, makes everything float32, as the field's multi-task code does, and
    then rotates, zooms, flips and resizes, one step after another, the image and every label.
    Interpolation is as in :class:`RandomWarp`, linear or nearest; the field's own cubic one would
    cost more. Files with three channels are vectors, which follow flip and rotation and are brought
    to unit length at the end. The image is normalised by mmcv.

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
        arrays = self._move(arrays)
        image = mmcv.imnormalize(arrays.pop("image"), _MEAN, _STD, to_rgb=True)
        for task, label in arrays.items():
            if label.ndim == 3:
                length = np.linalg.norm(label, axis=-1, keepdims=True)
                arrays[task] = label / np.maximum(length, 1e-12)
        moved = {"inputs": image, **arrays}
        return {name: from_numpy(channels_first(array)) for name, array in moved.items()}

    def _move(self, arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Rotate, zoom, flip and resize, in turn."""
        height, width = arrays["image"].shape[:2]
        center = ((width - 1) / 2, (height - 1) / 2)
        angle = np.random.uniform(*self.warp.rotate)
        scale = np.random.uniform(*self.warp.scale)
        flip = np.random.uniform() < self.warp.flip_prob
        sin, cos = np.sin(np.deg2rad(angle)), np.cos(np.deg2rad(angle))
        rotation = np.float32([[cos, sin, 0], [-sin, cos, 0], [0, 0, 1]])
        for name, array in arrays.items():
            vectors = array.ndim == 3 and name != "image"
            how = cv2.INTER_LINEAR if array.ndim == 3 else cv2.INTER_NEAREST
            for turn, zoom in ((angle, 1.0), (0.0, scale)):
                matrix = cv2.getRotationMatrix2D(center, turn, zoom)
                array = cv2.warpAffine(array, matrix, (width, height), flags=how)
            if vectors:
                array = array @ rotation
            if flip:
                array = cv2.flip(array, 1)
                if vectors:
                    array[..., 0] *= -1
            arrays[name] = cv2.resize(array, self.warp.size, interpolation=how)
        return arrays


@dataclass(frozen=True)
class DataSpeed:
    """What was measured.

    Attributes:
        ms: pipeline -> milliseconds an image: the median over the rounds, mean over the images.
        stages: pipeline -> step -> milliseconds an image, of this package's.
    """

    ms: Mapping[str, float]
    stages: Mapping[str, Mapping[str, float]]

    def record(self) -> dict[str, Any]:
        """For JSON."""
        paths = {k: dict(ms=ms, images_per_s=1000 / ms) for k, ms in self.ms.items()}
        times = {k: self.ms["plain"] / ms for k, ms in self.ms.items() if k != "plain"}
        return dict(pipelines=paths, times_plain=times, stages=self.stages)


@dataclass
class _Timed:
    """A transform that notes how long it takes."""

    transform: Callable[[dict], dict]
    seconds: list[float] = field(default_factory=list)

    def __call__(self, results: dict) -> dict:
        start = time.thread_time()
        results = self.transform(results)
        self.seconds.append(time.thread_time() - start)
        return results


def find_warp(dataset: MultiTaskDataset) -> RandomWarp:
    """The pipeline's RandomWarp, which the plain pipeline imitates; InputError if there is none."""
    for transform in dataset.pipeline.transforms:
        if isinstance(transform, RandomWarp):
            if transform.on_device:
                raise InputError(
                    "the plain pipeline warps on the CPU; compare it with augment_on_device=False"
                )
            return transform
    raise InputError(
        "the training pipeline has no RandomWarp, which is what the plain pipeline imitates"
    )


def measure(
    pipelines: Mapping[str, Any],
    images: int,
    repeats: int,
    workers: int = 0,
    advance: Callable[[], object] = lambda: None,
) -> DataSpeed:
    """Time pipelines in turn, so that a slow phase of the machine hits all of them alike.

    Without workers each runs on one thread, here, and what counts is the time of that thread on a
    core: it leaves out other programs' turns, and waiting for a disk. With workers a round is a
    pass over the images, by the clock.

    Args:
        pipelines: name -> data set of that many images; 'plain' is what others compare with.
        images: how many.
        repeats: rounds that are timed; one more comes before.
        workers: data-loading processes.
        advance: called after each round.
    """
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    draws = [[SeededIndex(i, (0, epoch, i)) for i in range(images)] for epoch in range(repeats + 1)]
    own = {k: v for k, v in pipelines.items() if isinstance(v, MultiTaskDataset)}
    round_of = partial(_round_by_workers, workers=workers) if workers else _round
    rounds = []
    for epoch in draws:
        rounds.append(round_of(pipelines, epoch))
        advance()
    stages = {name: _stages(dataset, draws) for name, dataset in own.items()}
    ms = {
        name: 1000 * float(np.mean(np.median([r[name] for r in rounds[1:]], axis=0)))
        for name in pipelines
    }
    return DataSpeed(ms, stages)


def _round(pipelines: Mapping[str, Any], draws: Sequence[SeededIndex]) -> dict[str, list[float]]:
    """Seconds of every image in every pipeline."""
    seconds: dict[str, list[float]] = {name: [] for name in pipelines}
    for first in range(0, len(draws), _BLOCK):
        for name, pipeline in pipelines.items():
            for draw in draws[first : first + _BLOCK]:
                start = time.thread_time()
                sample = pipeline[draw]
                seconds[name].append(time.thread_time() - start)
                del sample
    return seconds


def _round_by_workers(
    pipelines: Mapping[str, Any], draws: Sequence[SeededIndex], workers: int
) -> dict[str, list[float]]:
    """Seconds an image from the first one on, so that the workers' start is left out."""
    seconds = {}
    for name, pipeline in pipelines.items():
        loader = DataLoader(
            pipeline,
            batch_size=None,
            sampler=draws,
            num_workers=workers,
            worker_init_fn=partial(start_worker, None),
        )
        samples = iter(loader)
        next(samples)
        start = time.perf_counter()
        rest = sum(1 for _ in samples)
        seconds[name] = [(time.perf_counter() - start) / max(rest, 1)]
    return seconds


def _stages(dataset: MultiTaskDataset, draws: Sequence[Sequence[SeededIndex]]) -> dict[str, float]:
    """Milliseconds an image of each transform, medians over the rounds."""
    transforms = dataset.pipeline.transforms
    rounds = defaultdict(list)
    try:
        for epoch in draws:
            dataset.pipeline.transforms = timed = [_Timed(t) for t in transforms]
            for draw in epoch:
                dataset[draw]
            for one in timed:
                rounds[type(one.transform).__name__].append(1000 * float(np.mean(one.seconds)))
    finally:
        dataset.pipeline.transforms = transforms
    return {name: median(values[1:]) for name, values in rounds.items()}
