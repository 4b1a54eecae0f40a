"""Label files in other formats: frames of normals, units of depth, colours of classes."""

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from vmt_mm.datasets.transforms import make_warp
from vmt_mm.errors import InputError
from vmt_mm.tasks import Depth, LabelCounts, Normals, Saliency, Segmentation, build_tasks
from vmt_mm.tasks.segmentation import voc_palette
from vmt_mm.utils.files import write_image
from vmt_mm.utils.normal_frames import FRAMES, parse_frame

H, W = 12, 16
#: A frame's axes for the project's x, y, z, by hand from its definition.
FROM_OURS = dict(
    opengl=[1, 1, 1],
    opencv=[1, -1, -1],
    omnidata=[1, -1, 1],
    dsine=[-1, 1, 1],
    pytorch3d=[-1, 1, -1],
)


def _scene(seed=0):
    """Unit vectors (H, W, 3) that face the camera, float32."""
    normals = np.random.default_rng(seed).normal(size=(H, W, 3))
    normals[..., 2] = np.abs(normals[..., 2]) + 0.2
    return np.float32(normals / np.linalg.norm(normals, axis=-1, keepdims=True))


def _write(path, values, none=None):
    """Write vectors (H, W, 3) in the format of the path's ending."""
    kind, bits = path.suffix, 65535 if "16" in path.stem else 255
    if kind == ".npy":
        np.save(path, values)
    elif kind == ".tiff":
        lossless = [cv2.IMWRITE_TIFF_COMPRESSION, 1]  # not the default of OpenCV before 5
        assert cv2.imwrite(str(path), values[..., ::-1], lossless)
    else:
        codes = np.rint((values + 1) * (bits / 2)).astype(np.uint16 if bits > 255 else np.uint8)
        if none is not None:
            codes[0, 0] = none
        assert cv2.imwrite(str(path), codes[..., ::-1])
    return path


@pytest.mark.parametrize("file", ["8.png", "16.png", "a.npy", "a.tiff"])
@pytest.mark.parametrize("frame", FRAMES)
def test_normals_of_any_frame_are_ours_in_memory(tmp_path, frame, file):
    ours = _scene()
    spec = Normals("n", frame=frame).label
    path = _write(tmp_path / file, ours * np.float32(FROM_OURS[frame]))
    label = spec.decode(path)
    np.testing.assert_allclose(label, ours, atol=0.01 if file == "8.png" else 1e-4)
    # geometry acts in our frame, so an augmentation commutes with reading
    warp = make_warp((H, W), (H, W), flip=True, angle=20.0)
    np.testing.assert_allclose(spec.warp(label, warp), Normals("n").label.warp(ours, warp),
                               atol=0.02)  # fmt: skip
    # files are written in their frame and read back the same; drawings are in ours
    prediction = label.transpose(2, 0, 1)
    write_image(tmp_path / "out.png", spec.encode(prediction))
    with Image.open(tmp_path / "out.png") as image:
        written = np.array(image) / 127.5 - 1
    np.testing.assert_allclose(written, ours * FROM_OURS[frame], atol=0.02)
    np.testing.assert_allclose(spec.decode_prediction(tmp_path / "out.png"), ours, atol=0.02)
    plain = Normals("n").label.encode(prediction)
    np.testing.assert_array_equal(Normals("n", frame=frame).draw(prediction, {}), plain)


def test_frames_may_be_given_as_axes():
    assert parse_frame("y, -x,z") == "y,-x,z"
    spec = Normals("n", frame="y,-x,z").label  # y points right and x down
    np.testing.assert_allclose(
        spec.interpret(np.float32([[[0.6, 0.8, 0.0]]]))[0, 0], [0.8, -0.6, 0.0], atol=1e-6
    )
    for wrong in ("cv", "x,y", "x,x,z", 3, None):
        with pytest.raises(InputError, match=r"own: frame of normals .*opengl, opencv, omnidata"):
            build_tasks(dict(own=dict(type="Normals", frame=wrong)))
    with pytest.raises(InputError, match=r"own: `none` must be one of \('black', 'grey'\)"):
        build_tasks(dict(own=dict(type="Normals", none="white")))


@pytest.mark.parametrize("none", [0, 127, 128])
@pytest.mark.parametrize("frame", ["opengl", "opencv"])
def test_black_and_grey_are_not_normals(tmp_path, frame, none):
    path = _write(tmp_path / "n.png", _scene() * np.float32(FROM_OURS[frame]), none)
    label = Normals("n", frame=frame).label.decode(path)
    assert not label[0, 0].any()
    assert label[1:].any(-1).all()
    for name, code in (("black", 0), ("grey", 128)):
        spec = Normals("n", frame=frame, none=name).label
        assert (spec.encode(label.transpose(2, 0, 1))[0, 0] == code).all()


def test_zero_vectors_and_vectors_without_unit_length(tmp_path):
    spec, vectors = Normals("n").label, _scene()
    vectors[0, :4] = [[0] * 3, [np.nan] * 3, [np.inf, 0, 0], [0, np.nan, 1]]
    label = spec.decode(_write(tmp_path / "a.npy", vectors))
    assert not label[0, :4].any()
    np.testing.assert_allclose(label[1:], vectors[1:], atol=1e-6)
    faults = {
        "half.npy": (_scene() * 0.5, "100.0% of the normals are not of unit length"),
        "shifted.npy": ((_scene() + 1) / 2, "of the normals are not of unit length"),
        "zeros.npy": (np.zeros((H, W, 3), np.float32), "no pixel has a normal"),
        "nan.npy": (np.full((H, W, 3), np.nan, np.float32), "no pixel has a normal"),
        "grey.png": (np.zeros((H, W, 3), np.float32), "no pixel has a normal"),
        "long.png": (np.full((H, W, 3), 0.9, np.float32), "not of unit length"),
    }
    for name, (values, message) in faults.items():
        with pytest.raises(InputError, match=message) as caught:
            spec.decode(_write(tmp_path / name, np.float32(values)))
        assert str(tmp_path / name) in str(caught.value)


def test_a_colour_that_is_not_a_normal_is_found(tmp_path):
    spec, path = Normals("n").label, _write(tmp_path / "n.png", _scene())
    spec.check_file(path)
    white = _scene()
    white[:4] = 1
    _write(path, white)
    spec.check_file(path, share=0.5)
    with pytest.raises(InputError, match="33.3% of the normals are not of unit length"):
        spec.check_file(path, share=0.02)


def test_swapped_red_and_blue_are_named(tmp_path):
    for frame, fits in (("opengl", "z,y,x"), ("opencv", "z,-y,-x"), ("dsine", "-z,y,x")):
        files = _scene() * np.float32(FROM_OURS[frame])
        path = _write(tmp_path / "a.npy", files[..., ::-1].copy())
        spec = Normals("n", frame=frame).label
        (said,) = spec.find_suspicion(_counts(spec, [spec.decode(path)]))
        assert "swapped (BGR)" in said and f"frame={fits!r}" in said
        spec = Normals("n", frame=fits).label
        np.testing.assert_allclose(spec.decode(path), _scene(), atol=1e-6)
        assert spec.find_suspicion(_counts(spec, [spec.decode(path)])) == []


def _counts(spec, labels):
    counts = LabelCounts()
    for label in labels:
        counts.add(spec.count(label))
    return counts


def _room():
    """A wall above a floor, seen from above the floor, in our frame."""
    normals = np.tile(np.float32([0, 0, 1]), (H, W, 1))
    normals[H // 2 :] = [0, 0.94, 0.3412]
    return normals


@pytest.mark.parametrize("files", FROM_OURS)
@pytest.mark.parametrize("task", FROM_OURS)
def test_a_wrong_frame_is_named(tmp_path, files, task):
    path = _write(tmp_path / "n.png", _room() * np.float32(FROM_OURS[files]))
    spec = Normals("n", frame=task).label
    found = spec.find_suspicion(_counts(spec, [spec.decode(path)]))
    differs = [a != b for a, b in zip(FROM_OURS[files], FROM_OURS[task], strict=True)]
    if not any(differs[1:]):  # nothing reveals x
        assert found == []
        return
    fits = [a * (-1 if b and i else 1) for i, (a, b) in enumerate(
        zip(FROM_OURS[task], differs, strict=True))]  # fmt: skip
    name = next((name for name, signs in FROM_OURS.items() if signs == fits), None)
    assert len(found) == 1
    assert ("100% of the normals face away from the camera" in found[0]) == differs[2]
    assert ("100% of the steep ones point down" in found[0]) == differs[1]
    assert f"frame={name!r}" in found[0] or (name is None and "frame='" in found[0])


def test_frames_are_not_suspected_without_reason():
    spec = Normals("n").label
    y, x = np.mgrid[-1:1:99j, -1:1:99j]
    z = np.sqrt(np.maximum(1 - x**2 - y**2, 0))
    ball = np.float32(np.dstack([x, -y, z]) * (z > 0)[..., None])
    for labels in ([ball], [_room(), ball], [_scene(i) for i in range(3)]):
        assert spec.find_suspicion(_counts(spec, labels)) == []


DEPTHS = np.float32([[0, 0.5, 2.25], [3.5, 40.0, 60.0]])


@pytest.mark.parametrize(
    ("file", "values", "scale"),
    [
        ("mm.png", np.uint16(DEPTHS * 1000), None),
        ("kitti.png", np.uint16(DEPTHS * 256), 256),
        ("cm.png", np.uint8(DEPTHS * 4), 4),
        ("m.npy", DEPTHS, None),
        ("m64.npy", DEPTHS.astype(np.float64), None),
        ("mm.npy", np.int64(DEPTHS * 1000), None),
        ("mmf.npy", DEPTHS * 1000, 1000),
        ("m.tiff", DEPTHS, None),
        ("cm.tiff", DEPTHS * 100, 100.0),
        ("mm.tiff", np.uint16(DEPTHS * 1000), None),
    ],
)
def test_depth_of_any_unit_is_metres_in_memory(tmp_path, file, values, scale):
    path = tmp_path / file
    if path.suffix == ".npy":
        np.save(path, values)
    else:
        assert cv2.imwrite(str(path), values)
    label = Depth("d", scale=scale).label.decode(path)
    assert label.dtype == np.float32
    np.testing.assert_allclose(label, DEPTHS, atol=1e-5)


def test_invalid_depth(tmp_path):
    spec = Depth("d").label
    np.save(tmp_path / "a.npy", np.float32([[np.nan, np.inf, -1, -np.inf, 0, 2]]))
    np.testing.assert_array_equal(spec.decode(tmp_path / "a.npy"), [[0, 0, 0, 0, 0, 2]])
    np.save(tmp_path / "b.npy", np.int32([[-1, 0, 2000]]))
    np.testing.assert_array_equal(spec.decode(tmp_path / "b.npy"), [[0, 0, 2]])
    Image.fromarray(np.uint8([[1, 2]])).save(tmp_path / "c.png")
    with pytest.raises(InputError, match="expected 16-bit depth .* got 8-bit .* task's `scale`"):
        spec.decode(tmp_path / "c.png")
    Image.fromarray(np.uint8([[1, 2]])).convert("P").save(tmp_path / "p.png")
    for scale in (None, 50):  # no scale helps
        with pytest.raises(InputError, match="got a palette image, .* without a palette$"):
            Depth("d", scale=scale).label.decode(tmp_path / "p.png")
    for wrong in (0, -1, "mm", float("nan")):
        with pytest.raises(InputError, match="own: `scale` must be a positive number"):
            build_tasks(dict(own=dict(type="Depth", scale=wrong)))


def test_depth_beyond_16_bits_is_warned_of(tmp_path, recwarn):
    far = np.float32([[[1.5, 80.0, 200.0]]])
    with pytest.warns(UserWarning, match=r"above 65.535 m are clipped.*set suffix='.tiff'"):
        image = Depth("d").label.encode(far)
    np.testing.assert_array_equal(image, [[1500, 65535, 65535]])
    Depth("d").label.encode(np.float32([[[65.535, 0, 1]]]))
    floats = dict(suffix=".npy"), dict(suffix="_depth.tiff"), dict(scale=1)
    for options in (*floats, dict(scale=256)):
        spec = Depth("d", **options).label
        assert spec.suffix == (".tiff" if options in floats else ".png")
        path = tmp_path / f"out{spec.suffix}"
        write_image(path, spec.encode(far))
        np.testing.assert_allclose(spec.decode_prediction(path), far[0], atol=0.01)
    assert not recwarn


def test_depth_of_another_unit_or_cut_off_is_suspected():
    spec = Depth("d").label
    near, far = DEPTHS / 1000, DEPTHS * 1000
    for label, message in (
        (near, "are below 0.05 m: set the task's `scale`"),
        (far, "are above 500 m: set the task's `scale` to 1000"),
        (np.where(DEPTHS > 3, np.float32(1e10), DEPTHS), "write 0 for pixels without depth"),
        (np.minimum(DEPTHS * 3, np.float32(65.535)), "65.535 m, the 16-bit maximum"),
    ):
        (found,) = spec.find_suspicion(_counts(spec, [label]))
        assert message in found
    assert spec.find_suspicion(_counts(spec, [DEPTHS])) == []


COLORS = [(0, 0, 0), (200, 60, 60), (150, 100, 50)]
INDEX = np.uint8([[0, 1, 2, 255], [2, 2, 0, 0]])


def _colored(index, colors=COLORS, ignore=(255, 255, 255)):
    table = np.tile(np.uint8(ignore), (256, 1))
    table[: len(colors)] = colors
    return table[index]


def test_classes_may_be_colours(tmp_path):
    path = tmp_path / "label.png"
    task = Segmentation("s", 3, colors=COLORS, ignore_color=[255, 255, 255])
    Image.fromarray(_colored(INDEX)).save(path)
    np.testing.assert_array_equal(task.label.decode(path), INDEX)
    opaque = np.dstack([_colored(INDEX), np.full(INDEX.shape, 255, np.uint8)])
    Image.fromarray(opaque).save(path)
    np.testing.assert_array_equal(task.label.decode(path), INDEX)
    Image.fromarray(_colored(INDEX)).convert("P", palette=Image.Palette.ADAPTIVE).save(path)
    np.testing.assert_array_equal(task.label.decode(path), INDEX)  # whatever the palette indices
    Image.fromarray(np.zeros((2, 2), np.uint8)).save(path)
    np.testing.assert_array_equal(task.label.decode(path), np.zeros((2, 2)))
    # predictions are indices
    Image.fromarray(task.label.encode(INDEX[None])).save(path)
    np.testing.assert_array_equal(task.label.decode_prediction(path), INDEX)
    np.testing.assert_array_equal(task.draw(np.uint8([[[0, 1, 2]]]), {})[0], COLORS)
    voc = Segmentation("s", 21, colors="voc").label
    Image.fromarray(_colored(INDEX, voc_palette(21), (224, 224, 192))).save(path)
    np.testing.assert_array_equal(voc.decode(path), INDEX)


def test_colours_of_no_class_are_named(tmp_path):
    path = tmp_path / "label.png"
    spec = Segmentation("s", 3, colors=COLORS).label
    Image.fromarray(_colored(np.uint8([[0, 1, 255], [255, 2, 2]]), ignore=(9, 8, 7))).save(path)
    message = r"label.png: unknown colours \[\(9, 8, 7\)\]; expected"
    with pytest.raises(InputError, match=message):
        spec.decode(path)
    with pytest.raises(InputError, match=r"with 3 channel|need the task's `colors`"):
        Segmentation("s", 3).label.decode(path)
    for wrong in ("ade", COLORS[:2], [*COLORS[:2], (0, 0, 0)], [*COLORS[:2], (0, 0, 300)], 3 * [7]):
        with pytest.raises(InputError, match="own: .*colors"):
            build_tasks(dict(own=dict(type="Segmentation", num_classes=3, colors=wrong)))
    for options in (dict(ignore_color=(1, 2, 3)), dict(colors=COLORS, reduce_zero_label=True)):
        with pytest.raises(InputError, match="own: `"):
            build_tasks(dict(own=dict(type="Segmentation", num_classes=3, **options)))


def test_zero_may_be_ignored_and_classes_start_at_1(tmp_path):
    path = tmp_path / "label.png"
    spec = Segmentation("s", 3, reduce_zero_label=True).label
    Image.fromarray(np.uint8([[0, 1, 2, 3, 255]])).save(path)
    np.testing.assert_array_equal(spec.decode(path), [[255, 0, 1, 2, 255]])
    np.testing.assert_array_equal(Segmentation("s", 4).label.decode(path), [[0, 1, 2, 3, 255]])
    Image.fromarray(spec.encode(np.uint8([[[0, 2]]]))).save(path)
    np.testing.assert_array_equal(spec.decode_prediction(path), [[0, 2]])
    Image.fromarray(np.uint8([[4]])).save(path)
    with pytest.raises(InputError, match="expected class indices 0..3 or 255 .* got 4"):
        spec.decode(path)


def test_labels_of_one_value_are_suspected():
    floor, mask = Segmentation("s", 3).label, Saliency("s").label
    zeros, ignored = np.zeros((2, 2), np.uint8), np.full((2, 2), 255, np.uint8)
    half = np.uint8([[0, 255]])
    for spec, labels, message in (
        (floor, [ignored, ignored], "no pixel has a label, all are ignored"),
        (floor, [zeros, half], "every pixel is of value 0, except for 17% ignored pixels"),
        (floor, [zeros, zeros + 1], "every label is constant"),
        (mask, [zeros, zeros], "every pixel is background (check option `values`)"),
        (mask, [zeros + 1], "every pixel is foreground (check option `values`)"),
        (Depth("d").label, [np.ones((2, 2), np.float32)], "every label is constant"),
    ):
        (found,) = spec.find_suspicion(_counts(spec, labels))
        assert found.startswith(message)
    mixed = np.uint8([[0, 1]])
    assert floor.find_suspicion(_counts(floor, [zeros, mixed])) == []
    assert mask.find_suspicion(_counts(mask, [zeros, mixed])) == []
    assert floor.find_suspicion(LabelCounts()) == []


def test_settings_of_files_tell_specs_apart():
    options = dict(
        Segmentation=[{}, dict(reduce_zero_label=True), dict(colors=COLORS),
                      dict(colors=COLORS, ignore_color=(1, 2, 3))],
        Saliency=[{}, dict(values="mask01"), dict(suffix=".bmp")],
        Normals=[{}, dict(frame="opencv"), dict(none="grey")],
        Depth=[{}, dict(scale=256), dict(scale=1.0)],
    )  # fmt: skip
    for kind, settings in options.items():
        own = dict(num_classes=3) if kind == "Segmentation" else {}
        tasks = [build_tasks(dict(t=dict(type=kind, **own, **s)))["t"] for s in settings]
        assert len({task.label.identity for task in tasks}) == len(settings)
        assert torch.is_tensor(tasks[0].label.to_tensor(np.zeros((2, 2, 3), np.float32)))
