"""Images are read exactly as stored or refused: bit depths, channels, orientations."""

import io

import cv2
import mmcv
import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from vmt_mm.datasets import MultiTaskDataset
from vmt_mm.datasets.transforms import LoadImageFromFile, PackMultiTaskInputs, RandomWarp
from vmt_mm.datasets.transforms.geometry import MEAN_COLOR
from vmt_mm.datasets.transforms.load import displayable, reader_of
from vmt_mm.errors import CorruptFileError, InputError

RGB = np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8)
BGR, GREY = RGB[..., ::-1], RGB[..., 0]
ALPHA = np.where(np.arange(8) < 4, 90, 255).astype(np.uint8) * np.ones((6, 1), np.uint8)
DEEP = np.linspace(7000, 9000, 48).reshape(6, 8).astype(np.uint16)
RANGE = dict(value_range=(7000, 9000))


def _pillow(values, kind, mode=None, **options):
    stream = io.BytesIO()
    image = values if isinstance(values, Image.Image) else Image.fromarray(values)
    (image.convert(mode) if mode else image).save(stream, kind, **options)
    return stream.getvalue()


def _cv2(values, suffix):
    return cv2.imencode(suffix, values)[1].tobytes()


def _npy(values):
    stream = io.BytesIO()
    np.save(stream, values)
    return stream.getvalue()


def _read(content, **options):
    return LoadImageFromFile(**options).decode(content, "x/image.png")


def _refused(content, match, **options):
    with pytest.raises(CorruptFileError, match=r"^x/image\.png: .*" + match) as caught:
        _read(content, **options)
    assert len(str(caught.value).splitlines()) == 1


EIGHT_BITS = {
    "PNG": (_pillow(RGB, "PNG"), BGR),
    "BMP": (_pillow(RGB, "BMP"), BGR),
    "TIFF": (_pillow(RGB, "TIFF"), BGR),
    "compressed TIFF": (_pillow(RGB, "TIFF", compression="tiff_lzw"), BGR),
    "WebP": (_pillow(RGB, "WEBP", lossless=True), BGR),
    "array": (_npy(BGR), BGR),
    "grey PNG": (_pillow(GREY, "PNG"), GREY),
    "grey TIFF": (_pillow(GREY, "TIFF"), GREY),
    "grey BMP": (_pillow(GREY, "BMP"), GREY),
    "grey array": (_npy(GREY[..., None]), GREY),
    "1 bit": (_pillow(GREY > 99, "PNG"), np.uint8(255) * (GREY > 99)),
    "1 bit TIFF": (_pillow(GREY > 99, "TIFF"), np.uint8(255) * (GREY > 99)),
    "palette": (_pillow(Image.fromarray(RGB).quantize(256), "PNG"), BGR),
    "palette TIFF": (_pillow(Image.fromarray(RGB).quantize(256), "TIFF"), BGR),
    "palette GIF": (_pillow(Image.fromarray(RGB).quantize(256), "GIF"), BGR),
    "opaque alpha": (_pillow(np.dstack([RGB, np.full_like(GREY, 255)]), "PNG"), BGR),
    "CMYK TIFF": (_pillow(RGB, "TIFF", "CMYK"), BGR),
}


@pytest.mark.parametrize("kind", EIGHT_BITS)
def test_eight_bits_are_three_channels(kind):
    content, expected = EIGHT_BITS[kind]
    image = _read(content)
    expected = np.dstack([expected] * 3) if expected.ndim == 2 else expected
    assert (image.dtype, image.shape) == (np.uint8, (6, 8, 3))
    assert np.abs(image.astype(int) - expected).max() <= (1 if kind == "CMYK TIFF" else 0)


def test_a_cmyk_jpeg_has_its_colours():
    flat = np.full((16, 16, 3), (200, 100, 50), np.uint8)
    image = _read(_pillow(flat, "JPEG", "CMYK", quality=95))
    assert np.abs(image.astype(int) - flat[..., ::-1]).max() <= 3


DEEP_FILES = {
    "PNG": _pillow(DEEP, "PNG"),
    "TIFF": _pillow(DEEP, "TIFF"),
    "PGM": _cv2(DEEP, ".pgm"),
    "float TIFF": _cv2(DEEP.astype(np.float32), ".tiff"),
    "double TIFF": _cv2(DEEP.astype(np.float64), ".tiff"),
    "array": _npy(DEEP),
    "integers": _npy(DEEP.astype(np.int32)),
}


@pytest.mark.parametrize("kind", DEEP_FILES)
def test_more_than_eight_bits_keep_their_values(kind):
    content = DEEP_FILES[kind]
    for options in ({}, dict(to_float32=True), dict(color_type="grayscale")):
        _refused(
            content, r"values in \[7000, 9000\],.*value_range.*color_type='unchanged'", **options
        )
    stored = _read(content, color_type="unchanged")
    assert stored.dtype == np.float32
    assert np.array_equal(stored, DEEP)
    mapped = _read(content, value_range=[7000, 9000])
    assert (mapped.dtype, mapped.shape) == (np.float32, (6, 8, 3))
    assert np.allclose(mapped[..., 0], (DEEP - 7000.0) / 2000 * 255, atol=1e-4)
    assert len(np.unique(mapped)) == 48
    clipped = _read(content, value_range=(8000, 8500), color_type="grayscale")
    assert (clipped.min(), clipped.max(), clipped.shape) == (0, 255, (6, 8))


def test_sixteen_bit_colours():
    deep = BGR.astype(np.uint16) * 257
    for suffix in (".png", ".tiff"):
        content = _cv2(deep, suffix)
        _refused(content, "uint16 values")
        assert np.allclose(_read(content, value_range=(0, 65535)), BGR, atol=1e-4)
        assert np.array_equal(_read(content, color_type="unchanged"), deep)
        content = _cv2(np.dstack([deep, np.full(GREY.shape, 65535, np.uint16)]), suffix)
        assert np.allclose(_read(content, value_range=(0, 65535)), BGR, atol=1e-4)


def test_other_ranges_are_not_mixed():
    _refused(_pillow(RGB, "PNG"), "uint8 values .* do not match value_range", **RANGE)
    assert _read(_pillow(RGB, "PNG"), value_range=(0, 255)).dtype == np.float32
    for outside in ((0, 6999), (9001, 9999)):
        _refused(_npy(DEEP), r"values in \[7000, 9000\], which do not match", value_range=outside)
    deep = DEEP.astype(np.float32)
    deep[0, 0] = np.nan
    for options in (RANGE, dict(color_type="unchanged")):
        _refused(_npy(deep), "contains NaN or infinite values", **options)


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP", "grey PNG", "grey TIFF", "palette"])
def test_transparent_pixels_are_refused(kind):
    if kind == "palette":
        image = Image.fromarray(np.where(ALPHA == 255, 1, 0).astype(np.uint8), "P")
        image.putpalette([9, 9, 9, 10, 20, 30])
        content = _pillow(image, "PNG", transparency=0)
    else:
        channels = [GREY] if kind.startswith("grey") else [RGB]
        options = dict(lossless=True, exact=True) if kind == "WEBP" else {}
        content = _pillow(np.dstack([*channels, ALPHA]), kind.split()[-1], **options)
        colors = np.dstack([GREY] * 3) if kind.startswith("grey") else BGR
        stored = _read(content, color_type="unchanged")
        assert np.array_equal(stored, np.dstack([colors, ALPHA]))
    _refused(content, "transparent pixels.*color_type='unchanged'")


def test_more_channels():
    five = np.random.default_rng(0).integers(0, 9, (6, 8, 5)).astype(np.uint16)
    _refused(_npy(five), r"5 channels of uint16.*color_type='unchanged'.*in_channels=5")
    assert np.array_equal(_read(_npy(five), color_type="unchanged"), five)
    four = np.dstack([BGR, ALPHA])
    for content in (_npy(four), _cv2(four, ".png"), _cv2(four, ".tiff")):
        assert np.array_equal(_read(content, color_type="unchanged"), four)
    _refused(_npy(np.zeros((6, 8, 2), np.uint8)), "2 channels")
    _refused(_npy(np.ones((6, 8, 4), np.float32)), "has 4 channels of float32; ")  # may be opaque
    _refused(_npy(np.zeros((6, 8, 3), bool)), "got bool", color_type="unchanged")
    _refused(_npy(np.zeros(6)), r"got float64 \(6,\)")


def _frames(kind):
    other = Image.fromarray(255 - RGB)
    return _pillow(RGB, kind, save_all=True, append_images=[other, Image.fromarray(RGB)])


def test_several_images_in_a_file_are_refused():
    for kind in ("GIF", "PNG", "WEBP", "TIFF"):
        _refused(_frames(kind), r"contains 3 image.*expected one")


def test_content_that_decoders_would_rotate_or_drop_is_refused():
    exif = Image.Exif()
    exif[0x112] = 6
    _refused(_pillow(RGB, "TIFF", exif=exif), "orientation 6")
    _refused(_pillow(RGB, "TIFF")[:60], "")
    for junk in (b"II*\0", b"II*\0junk", b"MM\0*", b"GIF89a", b"\x93NUMPY", b"\x89PNG\r\n\x1a\n"):
        _refused(junk, "expected an image")


@pytest.mark.parametrize(
    "options",
    [
        dict(color_type="rgb"),
        dict(value_range=(9, 1)),
        dict(value_range="ab"),
        dict(value_range=(0, float("nan"))),
    ],
)
def test_options_that_are_wrong(options):
    with pytest.raises(InputError, match=f"LoadImageFromFile: `{next(iter(options))}` must be"):
        LoadImageFromFile(**options)


def _oriented(orientation, kind="JPEG", image=RGB):
    exif = Image.Exif()
    exif[0x112] = orientation
    quality = dict(JPEG=dict(quality=100, subsampling=0), WEBP=dict(lossless=True), PNG={})
    return _pillow(image, kind, exif=exif, **quality[kind])


@pytest.mark.parametrize("backend", ["cv2", "pillow"])
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientations(orientation, kind, backend):
    content = _oriented(orientation, kind)
    with Image.open(io.BytesIO(content)) as image:
        stored, turned = np.array(image), np.array(ImageOps.exif_transpose(image))
    for options, expected in (({}, stored), (dict(turn_by_exif=True), turned)):
        for color_type in ("color", "unchanged"):
            read = _read(content, color_type=color_type, imdecode_backend=backend, **options)
            assert read.shape == expected.shape
            assert np.abs(read[..., ::-1].astype(int) - expected).max() <= 2


def _warped(image, results=None, **options):
    warp = RandomWarp(size=(8, 6), flip_prob=0, rotate=(0, 0), scale=(0.5, 0.5), **options)
    return warp.transform(dict(img=image, label_specs={}, labels={}, **(results or {})))["img"]


def test_new_pixels_of_a_warp_have_a_value_of_every_channel():
    for channels in (1, 2, 3, 4, 5, 9):
        image = np.full((6, 8, channels), 7, np.float32)
        image = image[..., 0] if channels == 1 else image
        fill = tuple(range(20, 20 + channels))
        assert np.array_equal(np.atleast_1d(_warped(image, fill=fill)[0, 0]), fill)
        assert (_warped(image, fill=3.5)[0, 0] == 3.5).all()
    assert _warped(RGB)[0, 0].tolist() == list(MEAN_COLOR)
    assert abs(_warped(GREY)[0, 0] - np.mean(MEAN_COLOR)) <= 1
    with pytest.raises(InputError, match=r"needs fill=.* each of 3 channel.*got \(1, 2\)"):
        _warped(RGB, fill=(1, 2))


def test_images_in_other_units_need_a_fill(tmp_path):
    np.save(tmp_path / "five.npy", np.zeros((6, 8, 5), np.float32))
    cv2.imwrite(str(tmp_path / "deep.png"), DEEP)
    cv2.imwrite(str(tmp_path / "rgb.png"), BGR)

    def load(name, **options):
        return LoadImageFromFile(**options).transform(dict(img_path=str(tmp_path / name)))

    for name in ("five.npy", "deep.png"):
        results = load(name, color_type="unchanged")
        with pytest.raises(InputError, match=rf"{name}: RandomWarp needs fill="):
            _warped(results.pop("img"), results)
    for results in (
        load("rgb.png", color_type="unchanged"),
        load("rgb.png", to_float32=True),
        load("deep.png", value_range=(7000, 9000)),
    ):
        assert _warped(results.pop("img"), results)[0, 0].tolist() == list(MEAN_COLOR)


def test_no_transform_cuts_deep_images_to_eight_bits(tmp_path):
    cv2.imwrite(str(tmp_path / "deep.png"), DEEP)
    results = LoadImageFromFile(**RANGE).transform(dict(img_path=str(tmp_path / "deep.png")))
    assert PackMultiTaskInputs()(dict(results))["inputs"].dtype == torch.float32
    results["img"] = results["img"].astype(np.uint8)
    with pytest.raises(InputError, match=r"deep\.png: .* made 8-bit by PhotoMetricDistortion"):
        PackMultiTaskInputs()(results)


@pytest.fixture
def root(tmp_path):
    """Eight photographs, one per orientation, each with a bright object in stored pixels."""
    for folder in ("images", "floor", "splits"):
        (tmp_path / folder).mkdir()
    for orientation in range(1, 9):
        mask = np.zeros((16, 24), np.uint8)
        mask[2:7, 3:15] = 1
        image = np.where(mask[..., None] == 1, 220, 30).astype(np.uint8) * np.ones(3, np.uint8)
        content = _oriented(orientation, image=image)
        (tmp_path / f"images/{orientation}.jpg").write_bytes(content)
        Image.fromarray(mask).save(tmp_path / f"floor/{orientation}.png")
    (tmp_path / "splits/train.txt").write_text("\n".join("12345678"))
    return tmp_path


def _dataset(root, cache=None, **options):
    steps = [dict(type="LoadImageFromFile", **options)]
    steps += [dict(type="LoadLabels"), dict(type="PackMultiTaskInputs")]
    tasks = dict(floor=dict(type="Segmentation", num_classes=2))
    return MultiTaskDataset(root, tasks, pipeline=steps, cache=cache, serialize_data=False)


def _overlap(sample):
    found = sample["inputs"][0] > 128
    label = sample["data_samples"].label("floor")[0] > 0
    return float((found & label).sum() / (found | label).sum())


@pytest.mark.parametrize("cache", [None, True])
def test_labels_of_stored_pixels_lie_on_their_images(root, cache):
    assert [_overlap(sample) for sample in _dataset(root, cache)] == [1.0] * 8
    assert [_overlap(sample) for sample in _dataset(root, cache)] == [1.0] * 8


@pytest.mark.parametrize("cache", [None, True])
def test_labels_of_turned_images_need_an_option(root, cache):
    _dataset(root, cache)  # its cache must not be reused below
    for orientation in range(1, 9):
        with Image.open(root / f"images/{orientation}.jpg") as image:
            exif = image.getexif()
        label = Image.open(root / f"floor/{orientation}.png")
        label.getexif()[0x112] = exif.get(0x112, 1)
        turned = ImageOps.exif_transpose(label)
        Image.fromarray(np.array(turned)).save(root / f"floor/{orientation}.png")
    assert [_overlap(s) for s in _dataset(root, cache, turn_by_exif=True)] == [1.0] * 8
    dataset = _dataset(root)
    assert _overlap(dataset[2]) == 0  # such labels look like those of stored pixels
    with pytest.raises(InputError, match=r"5\.png: label of size.*orientation is 5.*turn_by_exif"):
        dataset[4]


def test_a_label_of_another_size_is_not_blamed_on_the_orientation(root):
    Image.fromarray(np.zeros((16, 23), np.uint8)).save(root / "floor/5.png")
    with pytest.raises(InputError, match=r"5\.png: label of size") as caught:
        _dataset(root)[4]
    assert "EXIF" not in str(caught.value)


def test_the_reader_is_found_in_wrappers(root):
    class Wrapper:
        def __init__(self, **inner):
            self.__dict__.update(inner)

    dataset = _dataset(root, value_range=(0, 9))
    for wrapped in (
        dataset,
        Wrapper(dataset=dataset),
        Wrapper(datasets=[Wrapper(dataset=dataset)]),
    ):
        assert reader_of(wrapped).value_range == (0, 9)
    assert reader_of(Wrapper()).value_range is None


def test_any_image_can_be_shown():
    assert displayable(BGR) is not None
    assert np.array_equal(displayable(BGR), BGR)
    for values in (GREY, np.dstack([BGR, ALPHA]), DEEP.astype(np.float32), BGR / np.float32(255)):
        shown = displayable(values)
        assert (shown.dtype, shown.shape) == (np.uint8, (6, 8, 3))
    assert displayable(DEEP.astype(np.float32)).max() == 255
    assert np.array_equal(displayable(GREY.astype(np.float32))[..., 0], GREY)
    assert displayable(np.zeros((4, 4, 2), np.float32)).max() == 0


def test_a_plain_file_is_decoded_as_mmcv_does():
    content = _oriented(6)
    ignoring = mmcv.imfrombytes(content, "color_ignore_orientation")
    assert np.array_equal(_read(content), ignoring)
    assert np.array_equal(
        _read(content, color_type="grayscale"),
        mmcv.imfrombytes(content, "grayscale_ignore_orientation"),
    )
