"""Time the data pipeline: from files, from a cache, and compared with a plain pipeline."""

import time
from collections import defaultdict, deque
from collections.abc import Callable, Mapping
from functools import partial
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
    """A dataset's samples by separate steps in float32, as is usual in the field's code."""

    def __init__(self, dataset: MultiTaskDataset) -> None:
        warps = [t for t in dataset.pipeline.transforms if isinstance(t, RandomWarp)]
        if not warps or warps[0].on_device:
            problem = "the training pipeline has no RandomWarp on the CPU to compare with"
            raise InputError(f"{problem}; set augment_on_device=False")
        self.dataset, self.warp = dataset, warps[0]

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
        for name, array in arrays.items():
            how = "bilinear" if array.ndim == 3 else "nearest"
            array = mmcv.imrotate(array, -angle, interpolation=how)
            array = mmcv.imrotate(array, 0, scale=scale, interpolation=how)
            array = mmcv.imflip(array) if flip else array
            array = mmcv.imresize(array, self.warp.size, interpolation=how)
            if name == "image":
                array = mmcv.imnormalize(array, _MEAN, _STD, to_rgb=True)
            elif array.ndim == 3:  # unit vectors turn with the image
                array = array @ rotation
                array /= np.maximum(np.linalg.norm(array, axis=-1, keepdims=True), 1e-12)
            arrays[name] = np.ascontiguousarray(np.atleast_3d(array).transpose(2, 0, 1))
        return {name: torch.from_numpy(array) for name, array in arrays.items()}


def measure(
    pipelines: Mapping[str, Any], images: int, repeats: int, workers: int, advance: Callable
) -> dict[str, Any]:
    """Time passes over the images in turn, after an untimed one.

    Returns median ``ms`` per image and ``images_per_s`` of ``pipelines``, their speed relative to
    'plain' (``times_plain``), and the ms per transform (``stages``).
    """
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    rounds: dict[str, list[float]] = {name: [] for name in pipelines}
    for _ in range(repeats + 1):
        for name, pipeline in pipelines.items():
            rounds[name].append(_pass(pipeline, images, workers))
        advance()
    ms = {name: 1000 * float(np.median(seconds[1:])) for name, seconds in rounds.items()}
    own = {name: pipeline for name, pipeline in pipelines.items() if name != "plain"}
    return dict(
        pipelines={name: dict(ms=value, images_per_s=1000 / value) for name, value in ms.items()},
        times_plain={name: ms["plain"] / ms[name] for name in own},
        stages={name: _stages(pipeline, images) for name, pipeline in own.items()},
    )


def _pass(pipeline: Any, images: int, workers: int) -> float:
    """Seconds per image, after an untimed image that starts the workers."""
    order = [0, *range(images)]
    samples = iter(DataLoader(pipeline, batch_size=None, sampler=order, num_workers=workers))
    clock = time.perf_counter if workers else time.thread_time
    next(samples)
    start = clock()
    deque(samples, maxlen=0)
    return (clock() - start) / images


def _stages(dataset: MultiTaskDataset, images: int) -> dict[str, float]:
    """Milliseconds per image and transform."""
    ms: dict[str, float] = defaultdict(float)

    def timed(transform: Callable, results: dict) -> dict:
        start = time.thread_time()
        results = transform(results)
        ms[type(transform).__name__] += 1000 * (time.thread_time() - start) / images
        return results

    transforms = dataset.pipeline.transforms
    dataset.pipeline.transforms = [partial(timed, transform) for transform in transforms]
    for index in range(images):
        dataset[index]
    dataset.pipeline.transforms = transforms
    return ms
