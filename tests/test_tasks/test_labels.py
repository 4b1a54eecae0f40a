"""Label files, how geometry changes their values, and how they are drawn."""

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from vmt_mm.datasets.transforms import make_warp
from vmt_mm.errors import InputError
from vmt_mm.tasks import Depth, Edge, Normals, Saliency, Segmentation, Warp, build_tasks
from vmt_mm.tasks.labels import channels_first
from vmt_mm.tasks.segmentation import voc_palette
from vmt_mm.utils.files import write_image

H, W = 7, 9
TASKS = {
    "semseg": Segmentation("semseg", num_classes=21),
    "saliency": Saliency("saliency"),
    "edge": Edge("edge"),
    "normals": Normals("normals"),
    "depth": Depth("depth"),
}
KIND = {"semseg": "grey", "saliency": "grey", "edge": "grey", "normals": "rgb", "depth": "16 bit"}


def _files(folder):
    """One file of each kind that a user may have put in the wrong folder."""
    rng = np.random.default_rng(0)
    images = {
        "grey": rng.integers(0, 21, (H, W), dtype=np.uint8),
        "rgb": rng.integers(1, 255, (H, W, 3), dtype=np.uint8),
        "rgba": rng.integers(1, 255, (H, W, 4), dtype=np.uint8),
        "16 bit": rng.integers(300, 60000, (H, W), dtype=np.uint16),
    }
    paths = {}
    for name, image in images.items():
        paths[name] = folder / f"{name}.png"
        Image.fromarray(image).save(paths[name])
    return paths


def _unit_normals(seed, height=H, width=W, invalid=0.2):
    rng = np.random.default_rng(seed)
    normals = rng.normal(size=(height, width, 3))
    normals /= np.sqrt((normals**2).sum(-1, keepdims=True))
    normals[rng.random((height, width)) < invalid] = 0
    return normals.astype(np.float32)


def _through_file(spec, label, path):
    values = spec.to_tensor(label).numpy()
    write_image(path, spec.encode(values))
    return spec.decode(path)


def test_index_and_mask_files_round_trip(tmp_path):
    rng = np.random.default_rng(1)
    index = rng.integers(0, 21, (H, W), dtype=np.uint8)
    index[0] = 255
    found = _through_file(TASKS["semseg"].label, index, tmp_path / "index.png")
    np.testing.assert_array_equal(found, index)
    assert found.dtype == np.uint8
    mask = rng.integers(0, 2, (H, W), dtype=np.uint8)
    found = _through_file(TASKS["saliency"].label, mask, tmp_path / "mask.png")
    np.testing.assert_array_equal(found, mask)


def test_mask_files_split_at_127_and_keep_probabilities(tmp_path):
    path = tmp_path / "mask.png"
    Image.fromarray(np.uint8([[0, 1, 127, 128, 255]])).save(path)
    np.testing.assert_array_equal(TASKS["edge"].label.decode(path), [[0, 0, 0, 1, 1]])
    encoded = TASKS["edge"].label.encode(np.float32([[[-0.1, 0.25, 0.5, 1.0, 1.2]]]))
    np.testing.assert_array_equal(encoded, [[0, 64, 128, 255, 255]])


@pytest.mark.parametrize("bits", [4, 8])
def test_palette_file_gives_indices_not_colours(tmp_path, bits):
    index = np.random.default_rng(2).integers(0, 16, (H, W), dtype=np.uint8)
    image = Image.fromarray(index)
    image.putpalette(voc_palette(16).tobytes())
    assert image.mode == "P"
    path = tmp_path / "palette.png"
    image.save(path, bits=bits)
    np.testing.assert_array_equal(TASKS["semseg"].label.decode(path), index)


def test_depth_file_is_16_bit_millimetres(tmp_path):
    metres = np.float32([[0, 0.001, 1.2344, 9.9996, 65.535, 80.0]])
    path = tmp_path / "depth.png"
    found = _through_file(TASKS["depth"].label, metres, path)
    with Image.open(path) as image:
        millimetres = np.array(image)
    np.testing.assert_array_equal(millimetres, [[0, 1, 1234, 10000, 65535, 65535]])
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, millimetres / 1000, rtol=1e-6)


def test_normals_file_keeps_directions_and_invalid_pixels(tmp_path):
    spec, normals = TASKS["normals"].label, _unit_normals(3)
    normals[0, 0] = (-1, 0, 0)  # one channel is 0, but the pixel is valid
    path = tmp_path / "normals.png"
    found = _through_file(spec, normals, path)
    invalid = ~normals.any(-1)
    assert 0 < invalid.sum() < H * W
    np.testing.assert_array_equal(~found.any(-1), invalid)
    np.testing.assert_allclose(found, normals, atol=0.008)
    np.testing.assert_allclose((found[~invalid] ** 2).sum(-1), 1, atol=1e-6)
    # The file's channels are R, G, B = x, y, z.
    with Image.open(path) as image:
        np.testing.assert_array_equal(np.array(image)[0, 0], [0, 128, 128])


@pytest.mark.parametrize("task", TASKS)
def test_other_kinds_of_file_are_refused_by_name(tmp_path, task):
    paths = _files(tmp_path)
    TASKS[task].label.decode(paths.pop(KIND[task]))
    assert len(paths) == 3
    for path in paths.values():
        with pytest.raises(InputError, match="expected") as caught:
            TASKS[task].label.decode(path)
        assert str(path) in str(caught.value)


@pytest.mark.parametrize("task", TASKS)
def test_damaged_files_are_refused_by_name(tmp_path, task):
    intact = _files(tmp_path)[KIND[task]].read_bytes()
    contents = [intact[:n] for n in (0, 4, 20, 40, len(intact) // 2)]
    for number, content in enumerate([*contents, b"not an image"]):
        path = tmp_path / f"damaged{number}.png"
        path.write_bytes(content)
        with pytest.raises(InputError, match="expected") as caught:
            TASKS[task].label.decode(path)
        assert str(path) in str(caught.value)


def test_flip_mirrors_pixels_and_negates_x():
    spec, normals = TASKS["normals"].label, _unit_normals(4)
    before = normals.copy()
    flipped = spec.follow(normals[:, ::-1].copy(), Warp(flip=True))
    for y, x in np.ndindex(H, W):
        np.testing.assert_array_equal(flipped[y, x], normals[y, W - 1 - x] * (-1, 1, 1))
    np.testing.assert_array_equal(normals, before)
    for task in ("semseg", "edge", "depth"):
        label = np.arange(H * W, dtype=np.uint8).reshape(H, W)
        mirrored = label[:, ::-1].copy()
        found = TASKS[task].label.follow(mirrored, Warp(flip=True))
        np.testing.assert_array_equal(found, mirrored)


@pytest.mark.parametrize("angle", [-90.0, -13.0, 30.0, 180.0])
def test_rotation_turns_the_vectors(angle):
    # A constant field stays constant, so the centre only shows the change of the vector.
    theta = np.deg2rad(angle)
    cos, sin = np.cos(theta), np.sin(theta)
    for nx, ny, nz in [(0.6, 0.0, 0.8), (0.0, 0.6, 0.8), (0.48, -0.64, 0.6)]:
        field = np.tile(np.float32([nx, ny, nz]), (11, 11, 1))
        warp = make_warp((11, 11), (11, 11), angle=angle)
        found = TASKS["normals"].label.warp(field, warp)[5, 5]
        np.testing.assert_allclose(found, (cos * nx - sin * ny, sin * nx + cos * ny, nz), atol=1e-6)


def test_zoom_leaves_depth_unless_it_divides():
    metres = np.full((9, 9), 3.0, np.float32)
    zoom = make_warp((9, 9), (9, 9), scale=1.5)
    assert Depth("depth").label.warp(metres, zoom)[4, 4] == 3.0
    assert Depth("depth", zoom_divides=True).label.warp(metres, zoom)[4, 4] == 2.0
    # A resize of the frame is not a zoom.
    resize = make_warp((9, 9), (18, 18))
    assert Depth("depth", zoom_divides=True).label.warp(metres, resize)[4, 4] == 3.0
    normals = _unit_normals(5, 9, 9, invalid=0)
    np.testing.assert_array_equal(TASKS["normals"].label.warp(normals, zoom)[4, 4], normals[4, 4])


def _upscale(spec, label):
    yield spec.resize(label, (label.shape[0] * 4, label.shape[1] * 4))
    size = label.shape[:2]
    yield spec.warp(label, make_warp(size, (size[0] * 4, size[1] * 4)))


def test_interpolated_normals_are_units_of_valid_neighbours():
    a, b = np.float32([0.8, 0, 0.6]), np.float32([0, 0.6, 0.8])
    label = np.zeros((6, 6, 3), np.float32)
    label[:, :2], label[:, 2:4] = a, b
    for found in _upscale(TASKS["normals"].label, label):
        inner = found[8:16]
        lengths = np.sqrt((inner**2).sum(-1))
        assert set(np.round(lengths, 5).ravel()) == {0.0, 1.0}
        # It blends between a and b; towards the invalid side, b is unchanged up to the border.
        assert not np.allclose(inner[:, 8], a, atol=0.05)
        assert not np.allclose(inner[:, 8], b, atol=0.05)
        np.testing.assert_allclose(inner[:, 12:16], np.broadcast_to(b, (8, 4, 3)), atol=1e-6)
        assert not inner[:, 16:].any()


def test_depth_and_index_are_never_blended():
    label = np.zeros((6, 6), np.float32)
    label[:, :3], label[:, 3:] = 1.0, 7.0
    for found in _upscale(TASKS["depth"].label, label):
        np.testing.assert_array_equal(found, np.repeat(np.repeat(label, 4, 0), 4, 1))
    for found in _upscale(TASKS["semseg"].label, label.astype(np.uint8)):
        np.testing.assert_array_equal(found, np.repeat(np.repeat(label, 4, 0), 4, 1))


@pytest.mark.parametrize("task", TASKS)
def test_padding_carries_no_label(task):
    spec = TASKS[task].label
    label = {"normals": _unit_normals(6, invalid=0), "depth": np.ones((H, W), np.float32)}.get(
        task, np.ones((H, W), np.uint8)
    )
    padded = spec.pad(label, 2, 3)
    assert padded.dtype == label.dtype
    valid = spec.valid(spec.to_tensor(padded)[None])
    expected = torch.zeros(1, 1, H + 2, W + 3, dtype=torch.bool)
    expected[..., :H, :W] = True
    assert torch.equal(valid, expected)
    np.testing.assert_array_equal(padded[:H, :W], label)


def test_every_task_draws_rgb_labels_and_predictions():
    rng = np.random.default_rng(8)
    for task in TASKS.values():
        logits = torch.tensor(rng.normal(size=(1, task.out_channels, H, W)), dtype=torch.float32)
        image = task.draw(task.to_prediction(logits)[0].numpy(), {})
        assert (image.dtype, image.shape) == (np.uint8, (H, W, 3)), task.name
        assert len(np.unique(image.reshape(-1, 3), axis=0)) > 1
    assert not TASKS["depth"].draw(np.zeros((1, H, W)), {}).any()
    assert not TASKS["normals"].draw(np.zeros((3, H, W)), {}).any()


def test_the_colours_of_keys_are_those_of_drawings():
    task = Depth("depth", max_depth=20)
    bar, texts = task.key({})
    assert [text for *_, text in texts] == ["1", "2", "4", "10", "20 m"]
    for x, _, text in texts:
        metres = np.full((1, 1, 1), float(text.removesuffix(" m")))
        column = bar[0, round(x * (bar.shape[1] - 1))]
        assert np.abs(task.draw(metres, {})[0, 0].astype(int) - column).max() < 6, text
    assert bar.any(axis=-1).all()  # black is no depth
    ball, texts = TASKS["normals"].key({})
    height, width = ball.shape[:2]
    facing = {(0.5, 0.5): (0, 0, 1), (0.5, 0.1): (0, 0.8, 0.6), (0.9, 0.5): (0.8, 0, 0.6)}
    for (x, y), normal in facing.items():
        color = TASKS["normals"].draw(np.float32(normal).reshape(3, 1, 1), {})[0, 0]
        assert np.abs(ball[round(y * height), round(x * width)].astype(int) - color).max() < 6
    assert {text: (x, y) for x, y, text in texts}["to camera"] == (0.5, 0.5)
    assert (ball[0, 0] == 255).all()
    assert TASKS["semseg"].key({}) is None


def test_segmentation_drawing_and_legend():
    task = Segmentation("semseg", num_classes=4)
    values = np.uint8([[[2, 2, 2, 1], [1, 3, 255, 255], [255, 255, 255, 255]]])
    meta = dict(classes="abcd", palette=[(1, 2, 3), (4, 5, 6), (7, 8, 9), (10, 11, 12)])
    image = task.draw(values, meta)
    np.testing.assert_array_equal(image[0, 0], (7, 8, 9))
    np.testing.assert_array_equal(image[1, 1], (10, 11, 12))
    assert tuple(image[2, 2]) not in {tuple(color) for color in meta["palette"]}
    assert task.legend(values, meta) == [("c", (7, 8, 9)), ("b", (4, 5, 6)), ("d", (10, 11, 12))]
    voc = {"2": (0, 128, 0), "1": (128, 0, 0), "3": (128, 128, 0)}
    assert task.legend(values, {}) == list(voc.items())


def test_voc_palette_is_the_known_one():
    assert voc_palette(8).tobytes().hex(" ", 3) == (
        "000000 800000 008000 808000 000080 800080 008080 808080"
    )
    # From 8 on, the second bits of the channels are used too.
    for index, color in {8: "400000", 15: "c08080", 20: "004080", 255: "e0e0c0"}.items():
        assert voc_palette(256)[index].tobytes().hex() == color


def test_a_class_that_does_not_exist_is_refused(tmp_path):
    spec = Segmentation("semseg", num_classes=4).label
    Image.fromarray(np.uint8([[0, 3], [255, 4]])).save(tmp_path / "label.png")
    with pytest.raises(InputError, match=r"label.png: expected .* 0..3 or 255 .*, got 4"):
        spec.decode(tmp_path / "label.png")


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32, np.float64])
def test_three_channels_get_the_values_that_cv2_gives_them(dtype):
    rng = np.random.default_rng(7)
    image = rng.integers(0, 256, (40, 50, 3)).astype(dtype)
    warp = make_warp((40, 50), (64, 48), flip=True, angle=13.0, scale=0.8)
    for how, fill in ((cv2.INTER_LINEAR, (104, 116, 124)), (cv2.INTER_NEAREST, 0)):
        expected = cv2.warpAffine(image, warp.matrix, (48, 64), flags=how, borderValue=fill)
        found = warp.apply(image, how, fill)
        assert found.dtype == dtype
        np.testing.assert_array_equal(found, expected)


def test_normals_in_strips_are_those_of_the_formulas(tmp_path):
    # more pixels than one strip has, and a last strip that is not full
    codes = np.random.default_rng(8).integers(0, 256, (300, 211, 3), dtype=np.uint8)
    codes[50:120, 30:] = 0
    path = tmp_path / "normals.png"
    Image.fromarray(codes).save(path)
    vectors = codes.astype(np.float32) * (2 / 255) - 1
    # black means no normal, and so does grey, which has no direction
    spec, valid = TASKS["normals"].label, codes.any(-1) & (np.linalg.norm(vectors, axis=-1) > 0.1)

    def unit(vectors, keep):
        length = np.sqrt(np.einsum("...c,...c->...", vectors, vectors))[..., None]
        return np.where(keep[..., None], vectors / np.maximum(length, 1e-12), np.float32(0))

    label = spec.decode(path)
    np.testing.assert_array_max_ulp(label, unit(vectors, valid), 1)
    assert not np.signbit(label[~valid]).any()
    warp = make_warp((300, 211), (190, 260), scale=1.2)
    weight = warp.apply(valid.astype(np.float32), cv2.INTER_LINEAR, 0)
    expected = unit(warp.apply(np.ascontiguousarray(label), cv2.INTER_LINEAR, 0), weight >= 0.5)
    found = spec.warp(label, warp)
    np.testing.assert_array_max_ulp(found, expected, 1)
    assert np.shares_memory(spec.to_tensor(found).numpy(), found)  # no further copy


def test_channels_first_takes_any_layout():
    rng = np.random.default_rng(9)
    for dtype in (np.uint8, np.float32, np.int64):
        array = rng.integers(0, 100, (20, 30, 3)).astype(dtype)
        for view in (array, array[:, ::-1], array[3:9, 4:17], array[..., 0], array[..., :2]):
            expected = view[None] if view.ndim == 2 else view.transpose(2, 0, 1)
            found = channels_first(view)
            np.testing.assert_array_equal(found, expected)
            assert found.flags.c_contiguous


@pytest.mark.parametrize("task", TASKS.values(), ids=list(TASKS))
def test_the_ending_of_label_files_can_be_chosen(task):
    options = dict(num_classes=3) if isinstance(task, Segmentation) else {}
    chosen = type(task)("own", suffix="_mask.png", **options)
    assert chosen.label.suffixes == ("_mask.png",)
    assert chosen.label.suffix == task.label.suffix == task.label.suffixes[0] == ".png"
    plain = type(task)("own", **options)
    assert "_mask.png" not in plain.label.suffixes  # the class attribute is unchanged
    assert chosen.label.identity != plain.label.identity
    for wrong in ("", "mask", "/a.png", 3):
        with pytest.raises(InputError, match="own: `suffix` must be an ending"):
            build_tasks(dict(own=dict(type=type(task), suffix=wrong, **options)))


def test_the_folder_of_label_files_can_be_chosen():
    plain, chosen = Saliency("own"), Saliency("own", folder="masks/first")
    assert (plain.label.folder, chosen.label.folder) == ("own", "masks/first")
    assert chosen.label.identity != plain.label.identity  # they do not share a cache
    for wrong in ("", ".", "/masks", "../masks", 3):
        with pytest.raises(InputError, match="own: `folder` must be a folder below the data root"):
            build_tasks(dict(own=dict(type="Saliency", folder=wrong)))
