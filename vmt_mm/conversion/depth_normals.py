"""Surface normals from depth: a plane is fitted around every pixel."""

import dataclasses
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import cv2
import numpy as np
from scipy.ndimage import distance_transform_edt

from vmt_mm.conversion.labels import normals_label
from vmt_mm.conversion.recipe import Label, LabelRule, Recipe
from vmt_mm.errors import InputError
from vmt_mm.utils.normal_frames import FRAMES

#: Ratio of neighbouring depths, minus one, that is a jump; least side of a window in pixels.
_JUMP, _MIN_WINDOW = 0.06, 5


def normals_from_depth(
    metres: np.ndarray, intrinsics: Sequence[float], window: int = 31
) -> tuple[np.ndarray, np.ndarray]:
    """Fit a plane to inverse depth by least squares in the window around every pixel.

    1 / Z of a plane is affine in pixel coordinates, and has even noise in stereo and Kinect depth.
    Near a jump of depth of more than 6 %, the window has half of its side, as noise permits.
    ``metres`` is depth along the optical axis (H, W), missing where it is not finite or positive;
    ``intrinsics`` fx, fy, cx, cy in pixels, where the first pixel's centre is (0, 0); ``window``
    the side in pixels. Raises InputError if these are invalid.

    Returns normals (H, W, 3), not of unit length, x right, y up, z to the camera; and where they
    are valid (H, W): with depth there and in a quarter of a window, which contains no jump.
    """
    fx, fy, cx, cy = intrinsics
    if window < _MIN_WINDOW or window % 2 == 0:
        raise InputError(f"window of {window} pixels: expected an odd number, at least 5")
    if not (np.isfinite(intrinsics).all() and fx > 0 and fy > 0):
        raise InputError(f"intrinsics {tuple(intrinsics)}: expected fx and fy > 0, then cx, cy")
    known = np.isfinite(metres) & (metres > 0)
    planes, valid = np.zeros((*metres.shape, 3)), np.zeros(metres.shape, bool)
    if not known.any():
        return planes, valid
    w = 1 / np.where(known, metres, 1).astype(np.float64)
    height, width = metres.shape
    x, y = np.meshgrid((np.arange(width) - cx) / fx, (np.arange(height) - cy) / fy)
    # A gap gets the nearest depth, so that a jump across it is found in its middle.
    nearest = distance_transform_edt(~known, return_distances=False, return_indices=True)
    logarithm, jumps = np.log(w[tuple(nearest)]), np.zeros(metres.shape)
    for a, b in ((np.s_[:, :-1], np.s_[:, 1:]), (np.s_[:-1], np.s_[1:])):
        jump = np.abs(logarithm[a] - logarithm[b]) > np.log1p(_JUMP)
        jumps[a][jump] = jumps[b][jump] = 1
    terms = np.stack([known, x, y, w, x * x, x * y, y * y, x * w, y * w], axis=-1)
    terms *= known[..., None]
    for side in (window, window // 2 | 1):
        box = dict(ksize=(side, side), normalize=False, borderType=cv2.BORDER_CONSTANT)
        count, *sums = np.moveaxis(cv2.boxFilter(terms, cv2.CV_64F, **box), -1, 0)
        usable = known & ~valid & (cv2.boxFilter(jumps, cv2.CV_64F, **box) < 0.5)
        # in windows of at least 5 x 5, so many pixels are never on one line
        usable &= (count > side * side / 4) & (side >= _MIN_WINDOW)
        mx, my, mw, xx, xy, yy, xw, yw = (total[usable] / count[usable] for total in sums)
        xx, xy, yy, xw, yw = xx - mx * mx, xy - mx * my, yy - my * my, xw - mx * mw, yw - my * mw
        scale, a, b = xx * yy - xy * xy, yy * xw - xy * yw, xx * yw - xy * xw  # slopes a, b / scale
        planes[usable] = np.stack([-a, b, scale * mw - a * mx - b * my], -1) / scale[:, None]
        valid |= usable
    return planes, valid


def derive_normals(recipe: Recipe, intrinsics: Sequence[float] | None, window: int) -> Recipe:
    """Return the recipe with normals from its depth; InputError without depth or a camera.

    ``intrinsics`` are fx, fy, cx, cy in pixels; None: the recipe's camera.
    """
    rules = {rule.task: rule for rule in recipe.labels}
    depth = rules.get("depth")
    if depth is None:
        raise InputError(f"{recipe.name} has no depth to derive normals from")
    camera = intrinsics or recipe.camera
    if camera is None:
        raise InputError(f"the camera of {recipe.name} is not known; give --intrinsics FX FY CX CY")
    normals_from_depth(np.zeros((1, 1)), camera, window)  # checks the arguments
    make = partial(_normals, depth=depth.make, camera=camera, window=window)
    rules["normals"] = LabelRule("normals", depth.files, make)
    settings, labels = dict(recipe.settings, normals=f"{camera} {window}"), tuple(rules.values())
    return dataclasses.replace(recipe, labels=labels, settings=settings, judge=None)


def _normals(
    *paths: Path, depth: Callable[..., Label], camera: Sequence[float], window: int
) -> Label:
    millimetres = depth(*paths).values
    if millimetres is None:
        return Label(None)
    return normals_label(*normals_from_depth(millimetres / 1000, camera, window), FRAMES["opengl"])
