"""Label files are read by content: values as stored, lossy formats refused."""

import struct
import zlib

import cv2
import numpy as np
import pytest
from PIL import Image

from vmt_mm.errors import InputError
from vmt_mm.tasks import build_tasks
from vmt_mm.utils.label_files import read_classes, read_label, read_mask

H, W = 6, 10


def _png(path, values, bits, color=0, palette=None):
    """Write a PNG by hand with ``bits`` bits per value, since libraries prefer 8."""
    rows = b""
    for row in np.atleast_2d(values):
        packed = np.unpackbits(row.astype(">u2").view(np.uint8)).reshape(-1, 16)[:, 16 - bits :]
        rows += b"\0" + np.packbits(packed.ravel()).tobytes()

    def chunk(kind, data):
        crc = zlib.crc32(kind + data)
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", crc)

    header = struct.pack(">IIBBBBB", values.shape[1], values.shape[0], bits, color, 0, 0, 0)
    colors = b"" if palette is None else chunk(b"PLTE", np.uint8(palette).tobytes())
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + colors
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )
    return path


def _save(path, values, kind=None, **options):
    Image.fromarray(values).save(path, kind, **options)
    return path


def _numpy(path, values):
    with path.open("wb") as stream:
        np.save(stream, values)
    return path


def _tiff(path, values):
    assert cv2.imwrite(str(path), values if values.ndim == 2 else values[..., ::-1])
    return path


def _indices(top):
    return np.random.default_rng(top).integers(0, top, (H, W), dtype=np.uint8)


@pytest.mark.parametrize("bits", [1, 2, 4, 8, 16])
@pytest.mark.parametrize("color", [0, 3])
def test_indices_of_any_bits_stay_as_they_are(tmp_path, bits, color):
    if (bits, color) == (16, 3):
        pytest.skip("not a kind of PNG")
    top = min(2**bits, 21)
    values = _indices(top)
    palette = np.arange(3 * 2 ** min(bits, 8)) % 256 if color else None
    path = _png(tmp_path / "label.png", values, bits, color, palette)
    for num_classes in (21, top):
        found = read_classes(path, max(num_classes, 2))
        assert found.dtype == np.uint8
        np.testing.assert_array_equal(found, values)


WRITERS = {
    "png": lambda p, v: _save(p, v, "PNG"),
    "bmp": lambda p, v: _save(p, v, "BMP"),
    "tiff": lambda p, v: _save(p, v, "TIFF"),
    "16-bit tiff": lambda p, v: _save(p, v.astype(np.uint16), "TIFF"),
    "32-bit tiff": lambda p, v: _save(p, v.astype(np.int32), "TIFF"),
    "lossless webp": lambda p, v: _save(p, v, "WEBP", lossless=True),
    "int64 npy": lambda p, v: _numpy(p, v.astype(np.int64)),
    "npy with one channel": lambda p, v: _numpy(p, v[..., None]),
    "grey as RGB": lambda p, v: _save(p, np.repeat(v[..., None], 3, -1), "PNG"),
    "grey as opaque RGBA": lambda p, v: _save(p, np.dstack([v, v, v, np.full_like(v, 255)]), "PNG"),
}


@pytest.mark.parametrize("suffix", [".png", ".npy", ""])
@pytest.mark.parametrize("kind", WRITERS)
def test_the_content_decides_not_the_name(tmp_path, kind, suffix):
    values = _indices(21)
    path = tmp_path / f"label{suffix}"
    WRITERS[kind](path, values)
    np.testing.assert_array_equal(read_classes(path, 21), values)


LOSSY = {
    "JPEG file": lambda p, v: _save(p, v, "JPEG", quality=100),
    "lossy WebP file": lambda p, v: _save(p, v, "WEBP", quality=100),
    "TIFF file with JPEG inside": lambda p, v: _save(p, v, "TIFF", compression="jpeg"),
}
TASKS = build_tasks(
    dict(
        floor=dict(type="Segmentation", num_classes=21),
        colors=dict(type="Segmentation", num_classes=21, colors="voc"),
        saliency=dict(type="Saliency"),
        edge=dict(type="Edge", values="mask01"),
        normals=dict(type="Normals"),
        depth=dict(type="Depth"),
    )
)


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("kind", LOSSY)
def test_lossy_files_are_refused_under_any_name(tmp_path, task, kind):
    for name in ("label.png", "label.jpg", "label"):
        path = tmp_path / name
        LOSSY[kind](path, _indices(21))
        with pytest.raises(InputError, match=f"{name}: the file is a {kind}") as caught:
            TASKS[task].label.decode(path)
        assert "export the labels again from their source, as PNG" in str(caught.value)


def test_files_other_than_one_numeric_image_are_refused(tmp_path):
    values = _indices(21)
    half = np.full_like(values, 99)
    frames = [Image.fromarray(values), Image.fromarray(values[::-1].copy())]
    frames[0].save(tmp_path / "many.gif", save_all=True, append_images=frames[1:])
    cases = {
        _save(tmp_path / "alpha.png", np.dstack([values] * 3 + [half])): "an alpha channel",
        _save(tmp_path / "rgb.png", np.dstack([values, values, half])): "with 3 channel",
        tmp_path / "many.gif": "several pictures",
        _numpy(tmp_path / "objects.npy", np.array([[None]])): "cannot be read",
        _numpy(tmp_path / "four.npy", np.zeros((1, 2, 2, 2))): "cannot be read",
        _numpy(tmp_path / "float.npy", np.zeros((2, 2), np.float32)): "got float32",
        _numpy(tmp_path / "minus.npy", np.full((2, 2), -1)): "got -1",
        _numpy(tmp_path / "empty.npy", np.zeros((0, 2), np.uint8)): "expected class indices",
        tmp_path / "gone.png": "cannot be read",
    }
    for path, message in cases.items():
        with pytest.raises(InputError, match=message) as caught:
            read_classes(path, 21)
        assert str(path) in str(caught.value)
    path = tmp_path / "label.exr"
    path.write_bytes(b"v/1\x01" + bytes(200))
    with pytest.raises(InputError, match="to read EXR, .* OPENCV_IO_ENABLE_OPENEXR=1"):
        TASKS["depth"].label.decode(path)


def test_values_of_several_channels_and_16_bits_or_more_stay(tmp_path):
    rng = np.random.default_rng(0)
    codes = rng.integers(0, 65536, (H, W, 3), dtype=np.uint16)
    vectors = rng.normal(size=(H, W, 3)).astype(np.float32)
    for path in (_tiff(tmp_path / "a.png", codes), _tiff(tmp_path / "a.tiff", codes)):
        np.testing.assert_array_equal(read_label(path, "codes", np.uint16, 3), codes)
    for path in (_tiff(tmp_path / "b.tiff", vectors), _numpy(tmp_path / "b.npy", vectors)):
        np.testing.assert_array_equal(read_label(path, "vectors", np.float32, 3), vectors)


def test_a_palette_of_other_greys_is_not_taken_for_classes(tmp_path):
    path = tmp_path / "label.png"
    for colors, is_read in (
        ([[0, 0, 0], [7, 7, 7], [15, 15, 15]], False),
        ([[0, 0, 0], [7, 0, 7], [15, 15, 15]], True),
        ([[0, 0, 0], [1, 1, 1], [2, 2, 2]], True),
        ([[0, 0, 0], [255, 255, 255], [99, 99, 99]], True),
        ([[0, 0, 0], [85, 85, 85], [170, 170, 170]], True),
    ):
        _png(path, _indices(3), 8, 3, colors)
        if is_read:
            np.testing.assert_array_equal(read_classes(path, 21, 255), _indices(3))
        else:
            with pytest.raises(
                InputError, match="index 1 of the palette image has the grey value 7"
            ):
                read_classes(path, 21, 255)


def test_tiff_files_that_decoders_would_change_are_refused(tmp_path):
    indices = _indices(3)
    image, path = Image.fromarray(indices), tmp_path / "label.tif"
    for orientation in range(2, 9):
        image.save(path, tiffinfo={274: orientation})
        with pytest.raises(InputError, match=f"orientation {orientation};"):
            read_classes(path, 3)
    image.save(path, save_all=True, append_images=[Image.fromarray(indices * 0)])
    with pytest.raises(InputError, match="contains 2 image"):
        read_classes(path, 3)
    one_bit = Image.fromarray(indices > 0)
    one_bit.save(path, compression="group4", tiffinfo={262: 1})
    np.testing.assert_array_equal(read_classes(path, 2), indices > 0)
    one_bit.save(path, tiffinfo={262: 0})
    with pytest.raises(InputError, match="a TIFF in which 0 is white"):
        read_classes(path, 2)


GREY = [[0, 0, 0], [255, 255, 255]]
MASK = np.uint8([[0, 1, 1, 0, 1, 0, 0, 0]])
MASKS = {
    "8 bits of 0 and 255": lambda p: _save(p, MASK * 255),
    "one bit": lambda p: _png(p, MASK, 1),
    "truth values": lambda p: _numpy(p, MASK.astype(bool)),
    "a palette of black and white": lambda p: _png(p, MASK, 1, 3, GREY),
    "a palette of white and black": lambda p: _png(p, 1 - MASK, 1, 3, GREY[::-1]),
    "a palette of colours": lambda p: _png(p, MASK, 8, 3, [[0, 0, 0], [128, 0, 0]]),
    "a palette of greys": lambda p: _png(p, MASK * 255, 8, 3, np.repeat(np.arange(256), 3)),
    "RGB": lambda p: _save(p, np.dstack([MASK * 255] * 3)),
}


@pytest.mark.parametrize("kind", MASKS)
def test_masks_whose_meaning_the_file_says_are_read(tmp_path, kind):
    path = tmp_path / "mask.png"
    MASKS[kind](path)
    np.testing.assert_array_equal(TASKS["saliency"].label.decode(path), MASK)


def test_masks_of_0_and_1_need_their_option(tmp_path):
    path = _save(tmp_path / "mask.png", MASK)
    with pytest.raises(InputError, match="got only 0 and 1, .* set the task's values='mask01'"):
        TASKS["saliency"].label.decode(path)
    np.testing.assert_array_equal(TASKS["edge"].label.decode(path), MASK)
    for values in (MASK.astype(np.float32), MASK.astype(np.int64), MASK.astype(bool)):
        _numpy(tmp_path / "mask.npy", values)
        np.testing.assert_array_equal(TASKS["edge"].label.decode(tmp_path / "mask.npy"), MASK)
    ignored = np.where(MASK, MASK, np.uint8([255, 0, 0, 0, 0, 0, 0, 0]))
    _save(path, ignored)
    np.testing.assert_array_equal(TASKS["edge"].label.decode(path), ignored)
    for values in (MASK * 255, MASK * 128, MASK * 2):
        _save(path, values)
        with pytest.raises(InputError, match="set the task's `values` to 'mask255'"):
            TASKS["edge"].label.decode(path)
    # predictions are probabilities, whatever the values of labels
    written = np.uint8([[0, 1, 128, 255]])
    _save(path, written)
    found = TASKS["edge"].label.decode_prediction(path)
    np.testing.assert_allclose(found, written / 255, rtol=1e-6)
    with pytest.raises(InputError, match=r"own: `values` must be one of \('mask255', 'mask01'\)"):
        build_tasks(dict(own=dict(type="Edge", values="01")))


def test_masks_of_0_and_1_with_ignored_pixels_need_their_option(tmp_path):
    path = _save(tmp_path / "mask.png", np.uint8([[0, 1, 1, 255]]))
    with pytest.raises(InputError, match="got only 0, 1 and 255, so 1 would be backgr"):
        read_mask(path)
    np.testing.assert_array_equal(read_mask(path, "mask01"), [[0, 1, 1, 255]])


def test_soft_and_empty_masks_stay_allowed(tmp_path):
    by_chance = [[1, *[0] * 200, *[255] * 200]]
    for values in (
        by_chance,
        [[0, 0]],
        [[0, 1, 2]],
        [[0, 64, 100]],
        [[255, 255]],
        [[0, 1, 9, 255]],
    ):
        path = _save(tmp_path / "mask.png", np.uint8(values))
        np.testing.assert_array_equal(read_mask(path), values)
    _numpy(path, np.float32([[0, 0.5]]))
    for values in ("mask255", "mask01"):
        with pytest.raises(InputError, match="got float32 in .0, 0.5."):
            read_mask(path, values)
    _png(path, MASK * 5, 4, 3, np.repeat(np.arange(16), 3))
    with pytest.raises(InputError, match="set the task's `values`"):
        read_mask(path, "mask01")


@pytest.mark.parametrize("values", ["mask255", "mask01"])
def test_objects_in_the_colours_of_a_palette_are_not_a_mask(tmp_path, values):
    colors = [[0, 0, 0], [128, 0, 0], [0, 128, 0]]
    path = _png(tmp_path / "mask.png", MASK + MASK * (np.arange(8) > 2), 8, 3, colors)
    with pytest.raises(InputError, match=r"a colour palette .* \[0, 1, 2\]; s"):
        read_mask(path, values)
    _png(path, MASK, 8, 3, colors)
    np.testing.assert_array_equal(read_mask(path, values) > 0, MASK)
