"""Normals from depth, compared with analytic surfaces; no other test derives labels."""

import cv2
import numpy as np
import pytest

from vmt_mm.conversion import convert
from vmt_mm.conversion.depth_normals import derive_normals, normals_from_depth
from vmt_mm.conversion.nyud import depth, nyud
from vmt_mm.conversion.pascal_context import pascal_context
from vmt_mm.conversion.recipe import LabelRule, Recipe
from vmt_mm.errors import InputError

SIZE = HEIGHT, WIDTH = 120, 160
CAMERA = (130.0, 128.0, 81.5, 57.0)
#: Pixels as x, y of their rays, in the camera frame: x right, y up, z to the camera.
RAYS = np.stack(
    [
        (np.arange(WIDTH) - CAMERA[2])[None] / CAMERA[0] + np.zeros(SIZE),
        -(np.arange(HEIGHT) - CAMERA[3])[:, None] / CAMERA[1] + np.zeros(SIZE),
        -np.ones(SIZE),
    ],
    axis=-1,
)


def unit(vectors):
    vectors = np.asarray(vectors, float)
    return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-30)


def plane(normal, distance):
    """Depth of the plane with this normal at this distance, NaN where no ray meets it."""
    inverse = -(RAYS @ unit(normal)) / distance
    return np.where(inverse > 0.05, 1 / np.where(inverse > 0.05, inverse, 1), np.nan)


def angles(vectors, expected):
    """Angles in degrees, precise also near 0."""
    a, b = unit(vectors), np.broadcast_to(unit(expected), vectors.shape)
    sine = np.linalg.norm(np.cross(a, b), axis=-1)
    return np.degrees(np.arctan2(sine, (a * b).sum(axis=-1)))


@pytest.mark.parametrize("window", [5, 9, 31])
@pytest.mark.parametrize(
    "normal", [(0, 0, 1), (0.6, 0, 0.8), (-0.3, 0.5, 0.8), (0, 1, 0.02), (0.1, -1, 0), (1, 0, -0.1)]
)
def test_planes_are_exact(normal, window):
    metres = plane(normal, 1.7)
    vectors, valid = normals_from_depth(metres, CAMERA, window)
    assert angles(vectors, normal)[valid].max() < 1e-5
    assert not valid[np.isnan(metres)].any()
    assert (vectors[~valid] == 0).all()
    # only the far end of a floor is so steep that neighbours differ by more than a jump
    assert valid[metres < 4].all()


def test_the_unit_of_depth_does_not_matter():
    metres = plane((-0.3, 0.5, 0.8), 1)
    for factor in (1e-3, 1e3):
        vectors, valid = normals_from_depth(factor * metres, CAMERA)
        assert valid.all()
        assert angles(vectors, (-0.3, 0.5, 0.8)).max() < 1e-5


def test_spheres_have_small_errors():
    centre, radius = np.array([0.2, -0.1, -3.0]), 1.0
    half = RAYS @ centre
    square = (RAYS**2).sum(axis=-1)
    root = half**2 - square * (centre @ centre - radius**2)
    hit = root > 0
    metres = np.where(hit, (half - np.sqrt(np.maximum(root, 0))) / square, np.nan)
    outward = metres[..., None] * RAYS - centre
    faces = hit & (angles(np.nan_to_num(outward), -RAYS) < 50)
    for window, most in ((5, 0.3), (9, 1.0)):
        vectors, valid = normals_from_depth(metres, CAMERA, window)
        assert valid[faces].all()
        assert angles(vectors, np.nan_to_num(outward, nan=1))[faces].max() < most


def test_noise_is_averaged_by_the_window():
    rng, normal = np.random.default_rng(0), (-0.3, 0.5, 0.8)
    # even in inverse depth, as of a stereo camera: about 7 mm at 2 m
    noisy = 1 / (1 / plane(normal, 1.7) + rng.normal(0, 0.002, SIZE))
    error = {}
    for window in (9, 15, 31):
        vectors, valid = normals_from_depth(noisy, CAMERA, window)
        assert valid.all()
        error[window] = np.median(angles(vectors, normal))
    assert error[31] < 1
    # the error of a slope is that of the noise / (side^2 / sqrt(12)): four times per doubled side
    assert 2.5 < error[9] / error[15] < 3.2
    assert 3.5 < error[15] / error[31] < 5.2


def test_missing_depth_has_no_normal_and_does_not_disturb():
    normal, rng = (0.6, 0.1, 0.8), np.random.default_rng(0)
    metres = plane(normal, 1.7)
    missing = rng.random(SIZE) < 0.5
    missing[40:80, 60:90] = True
    metres[missing] = rng.choice([0, -1, np.nan, np.inf], missing.sum())
    vectors, valid = normals_from_depth(metres, CAMERA, 15)
    assert not (valid & missing).any()
    assert angles(vectors, normal)[valid].max() < 1e-5
    assert (valid | missing).mean() > 0.99
    lonely = np.full(SIZE, np.nan)
    lonely[50] = 1  # a line of pixels: no plane
    assert not normals_from_depth(lonely, CAMERA, 31)[1].any()
    assert not normals_from_depth(np.zeros(SIZE), CAMERA)[1].any()


@pytest.mark.parametrize("gap", [0, 9])
def test_no_plane_is_fitted_across_a_jump(gap):
    near, far = (0.6, 0.1, 0.8), (-0.2, 0.3, 0.9)
    metres, column = plane(far, 3), 70
    metres[:, :column] = plane(near, 1)[:, :column]
    metres[:, column : column + gap] = 0  # the shadow of a Kinect
    ratio = metres[:, column + gap] / metres[:, column - 1]
    assert (ratio > 1.2).all()
    vectors, valid = normals_from_depth(metres, CAMERA, 31)
    expected = np.where((np.arange(WIDTH) < column)[:, None], near, far)
    assert angles(vectors, np.broadcast_to(expected, vectors.shape))[valid].max() < 1e-5
    # of 31 and 15 pixels, the smaller window decides what is lost
    lost = np.flatnonzero(~valid.all(axis=0))
    assert lost.min() >= column - 8
    assert lost.max() < column + gap + 8
    if gap == 0:
        assert not valid[:, column - 7 : column + 7].any()
    small = np.where(np.arange(WIDTH) < column, 1.0, 1.05) + np.zeros(SIZE)  # 5 %: no jump
    assert normals_from_depth(small, CAMERA, 31)[1].all()


def test_invalid_arguments_are_refused():
    for window in (4, 3, 30, -31):
        with pytest.raises(InputError, match=f"window of {window} pixels: expected an odd number"):
            normals_from_depth(np.ones(SIZE), CAMERA, window)
    for camera in ((0, 1, 2, 3), (1, -1, 2, 3), (1, 1, np.nan, 3)):
        with pytest.raises(InputError, match="expected fx and fy > 0"):
            normals_from_depth(np.ones(SIZE), camera)
    with pytest.raises(InputError, match="PASCAL_MT has no depth"):
        derive_normals(pascal_context("x,-y,z"), CAMERA, 31)
    with pytest.raises(InputError, match="camera of NYUD_MT is not known; give --intrinsics"):
        derive_normals(nyud("x,-y,z"), None, 31)


def test_any_dataset_with_depth_gets_normals(tmp_path):
    for folder in ("photos", "range"):
        (tmp_path / "raw" / folder).mkdir(parents=True)
    for name, metres in (("a", plane((0, 1, 0.2), 1.5)), ("b", np.zeros(SIZE))):
        cv2.imwrite(str(tmp_path / f"raw/photos/{name}.png"), np.zeros((*SIZE, 3), np.uint8))
        np.save(tmp_path / f"raw/range/{name}.npy", metres)
    (tmp_path / "raw/train.txt").write_text("a\nb")
    rules = (LabelRule("depth", (("range/{id}.npy",),), depth),)
    own = Recipe("my rooms", dict(train="train.txt"), dict(train=2), "photos/{id}.png", rules)
    recipe = derive_normals(own, CAMERA, 15)
    report = convert(recipe, tmp_path / "raw", tmp_path / "out")
    assert report.problems == []
    assert report.splits["train"]["normals"] == dict(written=1, none=1)
    image = cv2.imread(str(tmp_path / "out/normals/a.png"))[..., ::-1]
    labelled = image.any(axis=-1)
    assert labelled.mean() > 0.3
    # millimetres and eight bits
    assert angles(image[labelled] / 127.5 - 1, (0, 1, 0.2)).max() < 1.5
    again = convert(recipe, tmp_path / "raw", tmp_path / "out")
    other = convert(derive_normals(own, CAMERA, 9), tmp_path / "raw", tmp_path / "out")
    assert (again.converted_now, other.converted_now) == (0, 2)
