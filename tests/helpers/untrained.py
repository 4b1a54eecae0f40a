"""A checkpoint of the small model with random heads: predictions vary without any training.

``tests/conftest.py`` imports the fixtures.
"""

import numpy as np
import pytest
import torch
from commands import CONFIG, ROOT
from mmengine.registry import init_default_scope
from sharing import build_once

from vmt_mm.apis import MultiTaskInferencer, init_model
from vmt_mm.rendering import render_scene
from vmt_mm.utils.files import write_image

CONFIG_FILE = ROOT / CONFIG
#: Image sizes (height, width) within one folder.
SIZES = ((40, 56), (64, 48), (33, 97), (56, 40))
SMALL = {"image_size": (64, 64), "model.head.channels": 16}
#: The model's tasks.
TASKS = ["semseg", "human_parts", "saliency", "normals"]
#: The same as command-line arguments.
OPTIONS = ("--cfg-options", "image_size=64,64", "model.head.channels=16")


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory):
    """Path of the checkpoint."""

    def write(folder):
        init_default_scope("vmt_mm")
        torch.manual_seed(0)
        model = init_model(CONFIG_FILE, cfg_options=SMALL, device="cpu")
        torch.save(dict(state_dict=model.state_dict(), meta={}), folder / "untrained.pth")

    return build_once(tmp_path_factory, "untrained", write) / "untrained.pth"


@pytest.fixture(scope="session")
def model(checkpoint):
    """The model, on the CPU. Not to be modified."""
    init_default_scope("vmt_mm")
    return init_model(CONFIG_FILE, checkpoint, "cpu", SMALL)


@pytest.fixture
def inferencer(model):
    """An inferencer for it, without a progress bar."""
    return MultiTaskInferencer(model, show_progress=False)


def write_images(folder, count, first=0):
    """Write numbered images of mixed sizes; return their paths."""
    scene = render_scene(0, "untrained", 0, 128).image
    paths = []
    for number in range(first, first + count):
        height, width = SIZES[number % len(SIZES)]
        shift = number % 30
        image = np.roll(scene, 7 * number, axis=2)[shift : shift + height, shift : shift + width]
        paths.append(folder / f"image_{number:03d}.png")
        write_image(paths[-1], np.ascontiguousarray(image))
    return paths


def equal(one, other, tasks=TASKS):
    """Whether two samples have the same predictions, up to rounding, which depends on the batch."""
    for task in tasks:
        a, b = one.prediction(task), other.prediction(task)
        if a.shape != b.shape:
            return False
        wrong = (a != b) if a.dtype == torch.uint8 else ((a - b).abs() > 1e-4)
        if wrong.float().mean() > 1e-3:
            return False
    return True
