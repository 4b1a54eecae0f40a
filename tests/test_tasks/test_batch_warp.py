"""Warps of a batch equal those of single images and the exact results of the maps.

OpenCV computes coordinates in another order, so that they may differ by some 1e-5 pixels: the
nearest pixel differs in less than one pixel of a thousand, and interpolated values of 0..255
differ by less than 0.05.
"""

import functools

import cv2
import numpy as np
import pytest
import torch
from exact_maps import EXACT, exact_interpolation

from vmt_mm.datasets.transforms import make_warp
from vmt_mm.rendering import render_scene
from vmt_mm.tasks import BatchWarp, Depth, Edge, LabelSpec, Normals, Saliency, Segmentation
from vmt_mm.tasks.warps import Warp, framed
from vmt_mm.utils.compat import from_numpy

SPECS = {
    "semseg": Segmentation("semseg", num_classes=8).label,
    "saliency": Saliency.label,
    "normals": Normals.label,
    "edge": Edge.label,
    "depth": Depth("depth").label,
    "divided": Depth("depth", zoom_divides=True).label,
}
# Value of a missing label, by kind; repeated here on purpose, independently of the package.
NO_LABEL = {"semseg": 255, "saliency": 255, "edge": 255, "normals": 0, "depth": 0, "divided": 0}
SIZES = [(64, 64), (50, 64), (64, 41)]


@functools.cache
def _scene(index):
    return render_scene(0, "train", index, 64)


def _labels(index, size):
    """A scene's labels, cropped to ``size``; some normals are missing."""
    scene, (height, width) = _scene(index), size
    normals = scene.normals.copy()
    normals[20:30, 10:35] = 0
    labels = dict(
        semseg=scene.semseg,
        saliency=scene.saliency // 255,
        normals=normals,
        edge=scene.edge // 255,
        depth=scene.depth,
        divided=scene.depth,
    )
    return {task: label[:height, :width].copy() for task, label in labels.items()}


def _warp_batch(spec, labels, warps):
    """Warp a batch as the data preprocessor does."""
    tensors = [spec.to_tensor(label) for label in labels]
    maps = BatchWarp(warps, [label.shape[:2] for label in labels])
    return spec.warp_batch(framed(tensors, spec.fill), maps)


def _warp_alone(spec, label, warp):
    return spec.to_tensor(spec.warp(label.copy(), warp))


@pytest.mark.parametrize("side", [41, 64])
@pytest.mark.parametrize("name", EXACT)
def test_shifts_by_integer_pixels_are_exact(name, side):
    arguments, move, turn = EXACT[name]
    labels = _labels(0, (side, side))
    warp = make_warp((side, side), (side, side), **arguments)
    for task, spec in SPECS.items():
        found = _warp_batch(spec, [labels[task]], [warp])[0].numpy()
        if task == "normals":
            expected = np.stack(turn(*np.moveaxis(move(labels[task]), -1, 0)))
            np.testing.assert_allclose(found, expected, atol=1e-6)
        else:
            np.testing.assert_array_equal(found[0], move(labels[task]))
            assert found.dtype == labels[task].dtype


@exact_interpolation
def test_flip_of_any_size_is_exact_and_only_where_it_was_drawn():
    labels = [_labels(i, size) for i, size in enumerate(SIZES)]
    warps = [make_warp(size, (64, 64), flip=i == 1) for i, size in enumerate(SIZES)]
    images = [torch.arange(3 * h * w, dtype=torch.float32).view(3, h, w) for h, w in SIZES]
    same = make_warp(SIZES[1], SIZES[1], flip=True)
    maps = BatchWarp([same], [SIZES[1]])
    assert torch.equal(maps.linear(framed(images[1:2], 0))[0], images[1].flip(-1))
    for task, spec in SPECS.items():
        found = _warp_batch(spec, [x[task] for x in labels], warps)
        for label, warp, one in zip(labels, warps, found, strict=True):
            expected = _warp_alone(spec, label[task], warp)
            atol = 1e-4 if task == "normals" else 0
            torch.testing.assert_close(one, expected, atol=atol, rtol=0)


@exact_interpolation
@pytest.mark.parametrize("target", [(25, 32), (100, 128), (150, 192)])
def test_plain_resizes_choose_the_pixels_of_cv2(target):
    """Halving puts every pixel exactly between two; the even one is taken."""
    label = _labels(0, SIZES[1])
    for task in ("semseg", "edge", "depth"):
        warp = make_warp(SIZES[1], target)
        found = _warp_batch(SPECS[task], [label[task]], [warp])[0]
        assert torch.equal(found, _warp_alone(SPECS[task], label[task], warp))


def _random_warps(count, target=(56, 72), seed=0):
    rng = np.random.default_rng(seed)
    sizes = [SIZES[i % len(SIZES)] for i in range(count)]
    return [
        make_warp(s, target, bool(i % 2), rng.uniform(-20, 20), rng.uniform(0.75, 1.25))
        for i, s in enumerate(sizes)
    ], sizes


@exact_interpolation
@pytest.mark.parametrize("task", SPECS)
def test_a_batch_is_warped_as_its_images_alone(task):
    spec, (warps, sizes) = SPECS[task], _random_warps(9)
    labels = [_labels(i % 3, size)[task] for i, size in enumerate(sizes)]
    found = _warp_batch(spec, labels, warps)
    expected = torch.stack([_warp_alone(spec, *x) for x in zip(labels, warps, strict=True)])
    assert found.dtype == expected.dtype
    assert found.shape == expected.shape
    missing = (expected == NO_LABEL[task]).all(1)
    assert 0.02 < missing.float().mean() < 0.7
    # The fill value is exact, and in the same places.
    differs = (found == NO_LABEL[task]).all(1) != missing
    assert differs.float().mean() < 1e-3
    close = torch.isclose(found, expected, atol=1e-3, rtol=1e-5).all(1)
    assert close.float().mean() > 0.999


def test_normals_stay_unit_vectors_or_none():
    warps, sizes = _random_warps(6)
    labels = [_labels(i % 3, size)["normals"] for i, size in enumerate(sizes)]
    length = _warp_batch(SPECS["normals"], labels, warps).norm(dim=1)
    assert ((length - 1).abs() < 1e-5).logical_or(length == 0).all()
    assert 0.1 < (length == 0).float().mean() < 0.7


def test_normals_turn_with_the_image():
    """A plane that faces right, after a rotation to the left by 30 degrees."""
    label = np.zeros((9, 9, 3), np.float32)
    label[..., 0], label[..., 2] = 0.6, 0.8
    for flip, sign in ((False, 1), (True, -1)):
        warp = make_warp((9, 9), (9, 9), flip, angle=30, scale=2.0)
        found = _warp_batch(SPECS["normals"], [label], [warp])[0, :, 4, 4]
        expected = [sign * 0.6 * np.cos(np.pi / 6), sign * 0.6 * np.sin(np.pi / 6), 0.8]
        torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float32))


def test_a_missing_neighbour_is_left_out_of_a_normal():
    label = np.zeros((1, 4, 3), np.float32)
    label[0, :3] = [(1, 0, 0), (0, 1, 0), (0, 0, 1)]
    # At twice the width, pixels are a quarter of the way to a neighbour.
    found = _warp_batch(SPECS["normals"], [label], [make_warp((1, 4), (1, 8))])[0, :, 0].T
    between = torch.tensor([3.0, 1.0, 0.0]) / 10**0.5
    torch.testing.assert_close(found[1], between)
    torch.testing.assert_close(found[5], torch.tensor([0.0, 0.0, 1.0]))  # a quarter is missing
    assert (found[6:] == 0).all()  # three quarters, or all


@exact_interpolation
def test_images_are_interpolated_and_framed_as_cv2_does_it():
    warps, sizes = _random_warps(6)
    rng, fill = np.random.default_rng(0), (104, 116, 124)
    images = [rng.integers(0, 256, (*size, 3), dtype=np.uint8) for size in sizes]
    tensors = [torch.from_numpy(image).permute(2, 0, 1) for image in images]
    found = BatchWarp(warps, sizes).linear(framed(tensors, fill))
    outside = 0
    for image, warp, one in zip(images, warps, found.permute(0, 2, 3, 1).numpy(), strict=True):
        expected = warp.apply(image.astype(np.float32), cv2.INTER_LINEAR, fill)
        assert np.abs(one - expected).max() < 0.05
        inside = warp.apply(np.ones(image.shape[:2], np.float32), cv2.INTER_LINEAR, 0)
        assert (one[inside == 0] == fill).all()
        outside += (inside == 0).sum()
    assert outside > 1000


def test_new_pixels_carry_no_label():
    # Halving about the centre of an 8 x 8 frame leaves a border of two pixels.
    border = torch.ones(8, 8, dtype=torch.bool)
    border[2:6, 2:6] = False
    for task, spec in SPECS.items():
        label = _labels(1, (8, 8))[task]
        label[...] = 1 if label.ndim == 2 else (0, 0.6, 0.8)
        found = _warp_batch(spec, [label], [make_warp((8, 8), (8, 8), scale=0.5)])[0]
        assert (found[:, border] == NO_LABEL[task]).all(), task
        assert (found[:, ~border] != NO_LABEL[task]).any(0).all(), task


class _Sides(LabelSpec):
    """Classes 1 and 2 are a left and a right."""

    categorical = True

    def transform_values(self, labels, geometry):
        """As in docs/performance.md."""
        exchanged = torch.where((labels == 1) | (labels == 2), 3 - labels, labels)
        return torch.where(geometry.flip, exchanged, labels)


def test_a_flip_may_exchange_classes_on_a_device():
    """All other pixels, and those without a label, are unchanged."""
    label = np.random.default_rng(0).integers(0, 3, (9, 12), dtype=np.uint8)
    for flip in (False, True):
        warp = make_warp((9, 12), (9, 12), flip)
        found = _warp_batch(_Sides(), [label], [warp])[0, 0].numpy()
        expected = np.array([0, 2, 1], np.uint8)[label[:, ::-1]] if flip else label
        np.testing.assert_array_equal(found, expected)
    label[2:4] = 255
    warp = make_warp((9, 12), (9, 12), True, angle=10)
    found = _warp_batch(_Sides(), [label], [warp])[0]
    assert torch.equal(found, _warp_alone(_Sides(), label, warp))
    mirrored = _Sides().follow(np.uint8([[255, 2, 1, 0]]), Warp(flip=True))
    np.testing.assert_array_equal(mirrored, [[255, 1, 2, 0]])


def test_labels_that_were_not_framed_are_refused():
    with pytest.raises(ValueError, match="`framed` pads to"):
        BatchWarp([make_warp((4, 4), (4, 4))], [(4, 4)]).nearest(torch.zeros(1, 1, 4, 4))


def test_sixteen_bits():
    values = from_numpy((np.arange(16) * 4096).astype(np.uint16)).view(1, 1, 4, 4)
    identity = Warp(np.float64([[1, 0, 0], [0, 1, 0]]), (2, 2))
    out = BatchWarp([identity], [(2, 2)]).nearest(values)
    assert out.dtype == values.dtype
    assert torch.equal(out.int(), values[:, :, 1:3, 1:3].int())
