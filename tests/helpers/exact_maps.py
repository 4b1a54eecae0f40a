"""Warps that shift by an integer number of pixels."""

import cv2
import numpy as np
import pytest
from mmengine.utils import digit_version

#: For tests that compare interpolation pixel by pixel.
exact_interpolation = pytest.mark.skipif(
    digit_version(cv2.__version__) < digit_version("5.0"),
    reason="OpenCV before 5 rounds places to 1/32 pixel, and ties of the nearest pixel otherwise",
)
#: Maps without interpolation: what they do to any array, and to the vector (x, y, z).
EXACT = {
    "identity": ({}, lambda a: a, lambda x, y, z: (x, y, z)),
    "flip": (dict(flip=True), lambda a: a[:, ::-1], lambda x, y, z: (-x, y, z)),
    "quarter": (dict(angle=90), np.rot90, lambda x, y, z: (-y, x, z)),
    "flip, then quarter": (
        dict(flip=True, angle=90),
        lambda a: np.rot90(a[:, ::-1]),
        lambda x, y, z: (-y, -x, z),
    ),
}
