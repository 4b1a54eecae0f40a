"""Tests of the renderer: its geometry, its labels and the folder it writes."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from commands import Output

from vmt_mm.rendering import RenderedScene, render_scene, write_dataset
from vmt_mm.rendering.geometry import Box, Capsule, Frustum, Plane, Solid, Sphere, nearest
from vmt_mm.rendering.labels import (
    CLASSES,
    HEAD,
    LOWER_LEG,
    PALETTE,
    PART_CLASSES,
    PART_PALETTE,
    PERSON,
)
from vmt_mm.rendering.objects import Item, axis_matrix, make_person
from vmt_mm.rendering.render import camera_rays, edges, lit, render, scene_generator
from vmt_mm.rendering.scene import Camera, build_scene
from vmt_mm.rendering.textures import paint, random_rotation

Distance = Callable[[np.ndarray], np.ndarray]


def _frustum_distance(shape: Frustum) -> Distance:
    """Signed function (3, N) -> (N,), negative inside, exact near each smooth face."""
    slope = (shape.top - shape.bottom) / (2 * shape.half)

    def distance(p: np.ndarray) -> np.ndarray:
        reach = (shape.bottom + shape.top) / 2 + slope * p[1]
        side = (np.hypot(p[0], p[2]) - reach) / np.hypot(1, slope)
        return np.maximum(side, np.abs(p[1]) - shape.half)

    return distance


def _capsule_distance(shape: Capsule) -> Distance:
    """The hull of two balls, as the union of many balls between them."""
    steps = np.linspace(0, 1, 4001)[:, None]
    heights = -shape.half + 2 * shape.half * steps
    radii = shape.bottom + (shape.top - shape.bottom) * steps

    def distance(p: np.ndarray) -> np.ndarray:
        away = np.sqrt(p[0] ** 2 + p[2] ** 2 + (p[1] - heights) ** 2)
        return (away - radii).min(axis=0)

    return distance


def _box_distance(shape: Box) -> Distance:
    return lambda p: (np.abs(p) - shape.half).max(axis=0)


SHAPES: list[tuple[Any, Distance]] = [
    (Plane(), lambda p: p[1]),
    (Sphere(0.7), lambda p: np.sqrt((p * p).sum(axis=0)) - 0.7),
    (b := Box(0.5, 0.3, 0.8), _box_distance(b)),
    *((f, _frustum_distance(f)) for f in (Frustum(0.4, 0.4, 0.6), Frustum(0.5, 0.0, 0.7))),
    *((f, _frustum_distance(f)) for f in (Frustum(0.6, 0.25, 0.3), Frustum(0.2, 0.5, 0.4))),
    *((c, _capsule_distance(c)) for c in (Capsule(0.3, 0.3, 0.5), Capsule(0.4, 0.15, 0.45))),
]
IDS = [f"{type(shape).__name__}{number}" for number, (shape, _) in enumerate(SHAPES)]


@pytest.mark.parametrize(("shape", "distance"), SHAPES, ids=IDS)
def test_primitive_agrees_with_its_distance_function(shape: Any, distance: Distance) -> None:
    """Hits are on the surface, are the first ones, and have the normals of the numeric gradient."""
    rng = np.random.default_rng(3)
    for origin in ([1.6, 1.1, -1.3], [0.2, 2.0, 0.1], [-1.8, 0.05, 0.9]):
        start = np.array(origin)
        dirs = rng.uniform(-0.8, 0.8, (3, 60)) - start[:, None]
        t = shape.intersect(start, dirs)
        assert np.isfinite(t).any()
        hit = np.flatnonzero(np.isfinite(t))
        points = start[:, None] + t[hit] * dirs[:, hit]
        assert np.abs(distance(points)).max() < 1e-5
        # Brute force: no sample before the hit is inside, and none at all along a miss.
        for ray in range(dirs.shape[1]):
            steps = np.linspace(0, min(t[ray] * 0.999, 3.0), 120)
            assert distance(start[:, None] + steps * dirs[:, [ray]]).min() > -1e-6
        normals = shape.normal(points)
        assert np.allclose((normals**2).sum(axis=0), 1)
        assert ((normals * dirs[:, hit]).sum(axis=0) <= 1e-9).all()
        shift = 1e-4 * np.eye(3)[:, :, None]
        slope = [(distance(points + s) - distance(points - s)) / 2e-4 for s in shift]
        # Rims have no gradient: the two differences disagree there, and their norm drops.
        smooth = np.abs(np.linalg.norm(slope, axis=0) - 1) < 1e-4
        assert smooth.mean() > 0.8
        assert np.allclose(normals[:, smooth], np.array(slope)[:, smooth], atol=2e-3)


def test_primitive_known_hits() -> None:
    """Hits that can be computed by hand."""
    start, dirs = np.array([0.0, 0.0, 3.0]), np.array([[0.0], [0.0], [-1.0]])
    assert Sphere(1).intersect(start, dirs)[0] == pytest.approx(2)
    assert Box(1, 1, 0.5).intersect(start, dirs)[0] == pytest.approx(2.5)
    assert Frustum(0.5, 0.5, 1).intersect(start, dirs)[0] == pytest.approx(2.5)
    assert Frustum(1, 0, 1).intersect(start, dirs)[0] == pytest.approx(2.5)
    assert Capsule(0.4, 0.4, 1).intersect(start, dirs)[0] == pytest.approx(2.6)
    assert Sphere(1).intersect(start, -dirs)[0] == np.inf
    assert Frustum(1, 0, 1).normal(np.array([[0.0], [0.0], [0.5]]))[:, 0] == pytest.approx(
        np.array([0, 1, 2]) / np.sqrt(5)
    )


def test_culling_changes_nothing() -> None:
    """Bounding spheres only save work, for the camera and for the lights."""
    scene = build_scene(scene_generator(0, "train", 2))
    dirs, eye = camera_rays(scene.camera, 40), scene.camera.position
    depth, seen = nearest(scene.solids, eye, dirs)
    every = np.stack([solid.intersect(eye, dirs) for solid in scene.solids])
    assert np.array_equal(depth, every.min(axis=0))
    assert np.array_equal(seen, every.argmin(axis=0))
    points = eye[:, None] + depth * dirs
    normals = render(scene, 40, np.random.default_rng(0)).normals.reshape(-1, 3)
    normals = scene.camera.rotation @ normals.T
    (light, _), *_ = scene.lights
    rays = points + 2e-3 * normals - light[:, None]
    movable = [solid for solid in scene.solids if not isinstance(solid.shape, Plane)]
    blocked = [solid.intersect(light, rays) < 1 - 1e-6 for solid in movable]
    expected = ~np.any(blocked, axis=0) & ((rays * normals).sum(axis=0) < 0)
    assert np.array_equal(lit(light, scene.solids, points, normals), expected)


def _looking_along_minus_z(solids: list[Solid], size: int) -> RenderedScene:
    """Render solids from 1.5 m above the origin, looking horizontally along the world's -z."""
    scene = build_scene(scene_generator(0, "train", 0))
    camera = Camera(np.array([0.0, 1.5, 0.0]), np.eye(3), 0.6)
    lights = [(np.array([0.0, 3.0, 0.0]), np.ones(3))]
    scene = replace(scene, camera=camera, solids=solids, lights=lights)
    return render(scene, size, np.random.default_rng(0))


def _backdrop() -> list[Solid]:
    grey = paint("plain", (np.full(3, 0.5), np.full(3, 0.4)), 1.0)
    facing = axis_matrix(np.array([0.0, 0.0, 1.0]))
    floor = Solid(Plane(), np.eye(3), np.zeros(3), grey)
    return [floor, Solid(Plane(), facing, np.array([0.0, 0.0, -6.0]), grey, instance=1)]


def test_frame_conventions() -> None:
    """Rows go down, y goes up and z comes towards the camera."""
    scene = _looking_along_minus_z(_backdrop(), 64)
    assert scene.depth[:32] == pytest.approx(6.0)
    assert scene.normals[0, 0] == pytest.approx([0, 0, 1])
    assert scene.normals[-1, 0] == pytest.approx([0, 1, 0])
    # The ray through the last row's centre meets the floor 1.5 m below the camera.
    assert scene.depth[-1] == pytest.approx(1.5 / (0.6 * 63 / 64))


@pytest.mark.parametrize("seed", range(6))
def test_person_stands_upright(seed: int) -> None:
    """The head is above the lower legs and every part is visible."""
    person: Item = make_person(np.random.default_rng(seed), True)
    assert 1.35 < person.height < 2.4
    away = np.array([0.0, 0.0, -3.0])
    body = [
        replace(s, centre=s.centre + away, category=PERSON, instance=6, salient=True)
        for s in person.solids
    ]
    scene = _looking_along_minus_z(_backdrop() + body, 96)
    assert scene.human_parts is not None
    rows = {part: np.nonzero(scene.human_parts == part)[0] for part in range(1, 7)}
    assert all(len(found) for found in rows.values())
    assert rows[HEAD].max() < rows[LOWER_LEG].min()
    assert np.array_equal(scene.saliency > 0, scene.human_parts > 0)


@pytest.fixture(scope="module")
def scenes() -> list[RenderedScene]:
    """Forty small scenes that several tests share."""
    return [render_scene(5, "train", index, 64) for index in range(40)]


def test_arrays(scenes: list[RenderedScene]) -> None:
    """Types, shapes and ranges."""
    for scene in scenes:
        assert scene.image.shape == (64, 64, 3) and scene.image.dtype == np.uint8
        for mask in (scene.saliency, scene.edge):
            assert mask.dtype == np.uint8 and set(np.unique(mask)) <= {0, 255}
        assert scene.normals.dtype == scene.depth.dtype == np.float32
        assert scene.depth.min() > 0.5 and scene.depth.max() < 20
        assert 60 < scene.image.mean() < 190


def test_normals_face_the_camera(scenes: list[RenderedScene]) -> None:
    """Normals of visible surfaces point against the viewing ray."""
    for index, scene in enumerate(scenes):
        assert np.allclose((scene.normals**2).sum(axis=2), 1, atol=1e-5)
        camera = build_scene(scene_generator(5, "train", index)).camera
        rays = (camera.rotation.T @ camera_rays(camera, 64)).T.reshape(64, 64, 3)
        assert ((scene.normals * rays).sum(axis=2) <= 1e-6).all()


def test_depth_and_normals_agree() -> None:
    """Normals by finite differences of the depth match the labels on planes."""
    for index in range(4):
        scene = render_scene(1, "train", index, 96)
        tan = build_scene(scene_generator(1, "train", index)).camera.tan_half_fov
        at = ((np.arange(96) + 0.5) / 96 * 2 - 1) * tan
        x, y = np.meshgrid(at, -at)
        points = np.stack([x, y, -np.ones_like(x)], axis=2) * scene.depth[..., None]
        to_right = points[1:-1, 2:] - points[1:-1, :-2]
        upward = points[:-2, 1:-1] - points[2:, 1:-1]
        normals = np.cross(to_right, upward)
        normals /= np.linalg.norm(normals, axis=2, keepdims=True)
        # Deep inside a plane of the room, where the neighbours lie in the same plane.
        room = (scene.instances < 6).astype(np.uint8) & (scene.edge == 0)
        inner = cv2.erode(room, np.ones((5, 5), np.uint8))[1:-1, 1:-1] > 0
        assert inner.sum() > 500
        cosine = (normals * scene.normals[1:-1, 1:-1]).sum(axis=2)[inner]
        assert np.degrees(np.arccos(np.clip(cosine, -1, 1))).max() < 2


def test_labels_agree_with_each_other(scenes: list[RenderedScene]) -> None:
    """Parts, classes, saliency and edges are consistent."""
    for scene in scenes:
        parts = scene.human_parts
        person = scene.semseg == PERSON
        assert (parts is None) == (not person.any())
        if parts is not None:
            assert np.array_equal(parts > 0, person)
        assert np.array_equal(scene.semseg == 0, scene.instances < 6)
        assert not scene.saliency[scene.semseg == 0].any()
        for instance in np.unique(scene.instances):
            own = scene.instances == instance
            assert len(np.unique(scene.saliency[own])) == len(np.unique(scene.semseg[own])) == 1
        assert np.array_equal(scene.edge, edges(scene.instances))
    assert np.mean([scene.saliency.any() for scene in scenes]) > 0.9


def test_edges_lie_left_and_above_a_change() -> None:
    """Edges are one pixel wide and on the left or upper side."""
    instances = np.zeros((4, 4), np.uint8)
    instances[2, 2] = 7
    expected = np.zeros((4, 4), np.uint8)
    expected[[2, 1, 2], [1, 2, 2]] = 255
    assert np.array_equal(edges(instances), expected)


def test_everything_occurs(scenes: list[RenderedScene]) -> None:
    """Every class and every body part occurs."""
    assert len(CLASSES) == len(PALETTE) and len(PART_CLASSES) == len(PART_PALETTE)
    classes = {value for scene in scenes for value in np.unique(scene.semseg)}
    parts = {
        value
        for scene in scenes
        if scene.human_parts is not None
        for value in np.unique(scene.human_parts)
    }
    assert classes == set(range(len(CLASSES)))
    assert parts == set(range(len(PART_CLASSES)))
    with_people = np.mean([scene.human_parts is not None for scene in scenes])
    assert 0.4 < with_people < 0.9


def test_scene_is_a_function_of_its_arguments() -> None:
    """Equal arguments give equal scenes, and the size only changes the resolution."""
    one, two = (render_scene(3, "val", 7, 48) for _ in range(2))
    assert np.array_equal(one.image, two.image) and np.array_equal(one.depth, two.depth)
    for other in (("val", 8), ("train", 7)):
        assert not np.array_equal(one.semseg, render_scene(3, *other, 48).semseg)
    # At three times the resolution, the centre of every third pixel is the same ray.
    large = render_scene(3, "val", 7, 144)
    assert np.allclose(large.depth[1::3, 1::3], one.depth, rtol=1e-4)
    assert np.array_equal(large.instances[1::3, 1::3], one.instances)


def _contents(root: Path) -> dict[str, bytes]:
    return {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file()}


def test_writer(tmp_path: Path) -> None:
    """The files hold the rendered labels, whatever the number of workers."""
    for workers in (1, 2):
        write_dataset(tmp_path / str(workers), 4, 2, 24, 9, workers)
    one, two = _contents(tmp_path / "1"), _contents(tmp_path / "2")
    assert one == two
    assert json.loads(one["shapes.json"]) == {
        "renderer": 1,
        "train": 4,
        "val": 2,
        "size": 24,
        "seed": 9,
    }
    assert one["splits/val.txt"] == b"val_00000\nval_00001\n"
    for index in range(4):
        _check_files(tmp_path / "1", f"train_{index:05d}", render_scene(9, "train", index, 24))


def _check_files(root: Path, name: str, scene: RenderedScene) -> None:
    def read(folder: str) -> np.ndarray:
        image = cv2.imread(str(root / folder / f"{name}.png"), cv2.IMREAD_UNCHANGED)
        assert image is not None
        return image

    assert np.array_equal(read("semseg"), scene.semseg)
    assert np.array_equal(read("saliency"), scene.saliency)
    assert np.array_equal(read("edge"), scene.edge)
    assert (root / "human_parts" / f"{name}.png").exists() == (scene.human_parts is not None)
    if scene.human_parts is not None:
        assert np.array_equal(read("human_parts"), scene.human_parts)
    depth = read("depth")
    assert depth.dtype == np.uint16 and np.abs(depth / 1000 - scene.depth).max() < 6e-4
    normals = read("normals")[:, :, ::-1]
    assert normals.any(axis=2).all()
    assert np.abs(2 * (normals / 255) - 1 - scene.normals).max() < 4.1e-3
    photo = cv2.imread(str(root / "images" / f"{name}.jpg"))
    assert photo is not None and photo.shape == (24, 24, 3)
    assert np.abs(photo[:, :, ::-1].astype(float) - scene.image).mean() < 12


def test_rotations_are_proper() -> None:
    """Rotation matrices are orthogonal and do not mirror."""
    rng = np.random.default_rng(0)
    for _ in range(20):
        for matrix in (random_rotation(rng), axis_matrix(rng.normal(size=3))):
            assert np.allclose(matrix @ matrix.T, np.eye(3))
            assert np.linalg.det(matrix) == pytest.approx(1)


def test_command_line(run_tool: Callable[..., Output], tmp_path: Path) -> None:
    """The tool writes a dataset once and refuses to overwrite it."""
    out = tmp_path / "shapes"
    line = (out, "--train", 1, "--val", 1, "--size", 16, "--seed", 2, "--workers", 1)
    run_tool("tools/dataset_converters/shapes.py", *line)
    assert (out / "shapes.json").exists()
    again = run_tool("tools/dataset_converters/shapes.py", *line, code=2)
    assert f"{out} exists and is not an empty folder\n" in again.err
