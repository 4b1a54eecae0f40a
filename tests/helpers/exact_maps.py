"""Warps that move whole pixels."""

import numpy as np

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
