"""Image files truncated at any length are found; no intact file is refused."""

import io
import struct
import zlib
from collections.abc import Callable

import cv2
import mmcv
import numpy as np
import pytest
from PIL import ExifTags, Image

from vmt_mm.datasets.transforms import LoadImageFromFile
from vmt_mm.errors import CorruptFileError
from vmt_mm.utils.image_files import find_damage

_SCAN, _END = b"\xff\xda", b"\xff\xd9"


def _picture(height: int = 37, width: int = 53, noise: int = 60) -> np.ndarray:
    """A gradient with noise, whose coded data has every byte value, including 0xff."""
    rng = np.random.default_rng(0)
    ramp = np.linspace(0, 195, height * width * 3).reshape(height, width, 3)
    return (ramp + rng.integers(0, noise, ramp.shape)).astype(np.uint8)


def _by_pillow(image: np.ndarray, kind: str, **options: object) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, kind, **options)
    return stream.getvalue()


def _by_cv2(image: np.ndarray, suffix: str, *flags: int) -> bytes:
    done, content = cv2.imencode(suffix, image, list(flags))
    assert done
    return content.tobytes()


def _exif_with_thumbnail() -> bytes:
    """An EXIF segment whose second directory contains a complete JPEG, as written by cameras."""
    thumbnail = _by_pillow(_picture(16, 24), "JPEG", quality=60)
    first = struct.pack("<HI", 0, 14)  # no entry; the next directory is at byte 14
    start = 14 + 2 + 3 * 12 + 4
    entries = [(0x0103, 3, 6), (0x0201, 4, start), (0x0202, 4, len(thumbnail))]
    second = struct.pack("<H", len(entries))
    second += b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in entries)
    header = b"II" + struct.pack("<HI", 42, 8)
    return b"Exif\0\0" + header + first + second + struct.pack("<I", 0) + thumbnail


_JPEGS: dict[str, Callable[[], bytes]] = {
    "cv2": lambda: _by_cv2(_picture(), ".jpg"),
    "cv2 progressive": lambda: _by_cv2(_picture(), ".jpg", cv2.IMWRITE_JPEG_PROGRESSIVE, 1),
    "cv2 restart markers": lambda: _by_cv2(_picture(), ".jpg", cv2.IMWRITE_JPEG_RST_INTERVAL, 1),
    "cv2 grey": lambda: _by_cv2(_picture()[..., 0], ".jpg"),
    "Pillow": lambda: _by_pillow(_picture(), "JPEG"),
    "Pillow best": lambda: _by_pillow(_picture(), "JPEG", quality=100, subsampling=0),
    "Pillow progressive": lambda: _by_pillow(_picture(), "JPEG", progressive=True),
    "Pillow one colour": lambda: _by_pillow(np.full((9, 9, 3), 77, np.uint8), "JPEG"),
    "thumbnail": lambda: _by_pillow(_picture(), "JPEG", exif=_exif_with_thumbnail()),
    "thumbnail progressive": lambda: _by_pillow(
        _picture(), "JPEG", exif=_exif_with_thumbnail(), progressive=True
    ),
}
_PNGS: dict[str, Callable[[], bytes]] = {
    "cv2": lambda: _by_cv2(_picture(), ".png"),
    "Pillow": lambda: _by_pillow(_picture(), "PNG"),
    "Pillow 16 bit": lambda: _by_pillow(_picture()[..., 0].astype(np.uint16), "PNG"),
    "Pillow one colour": lambda: _by_pillow(np.full((9, 9, 3), 77, np.uint8), "PNG"),
}
_WHOLE = {f"JPEG {name}": make for name, make in _JPEGS.items()}
_WHOLE |= {f"PNG {name}": make for name, make in _PNGS.items()}


@pytest.mark.parametrize("name", _WHOLE)
def test_an_intact_file_is_accepted(name):
    content = _WHOLE[name]()
    assert mmcv.imfrombytes(content) is not None
    assert find_damage(content) is None


@pytest.mark.parametrize("name", _WHOLE)
def test_zero_bytes_behind_the_end_do_not_matter(name):
    content = _WHOLE[name]()
    assert [n for n in (1, 2, 7, 512) if find_damage(content + bytes(n)) is not None] == []


def test_the_thumbnail_is_a_jpeg():
    # Otherwise the tests with it would prove nothing.
    content = _JPEGS["thumbnail"]()
    with Image.open(io.BytesIO(content)) as image:
        directory = image.getexif().get_ifd(ExifTags.IFD.IFD1)
    assert directory[0x0202] > 100
    assert content.count(_END) == 2
    assert content.index(_END) < content.rindex(_SCAN)


@pytest.mark.parametrize("name", _JPEGS)
def test_a_jpeg_cut_anywhere_in_its_picture_is_found(name):
    content = _JPEGS[name]()
    assert content.endswith(_END)
    own = content.index(_END) + 2 if "thumbnail" in name else 0
    scan = content.index(_SCAN, own) + 2
    assert len(content) - scan > 15
    lengths = range(scan, len(content))
    assert [n for n in lengths if find_damage(content[:n]) is None] == []
    # Like a file that a download allocated and did not fill.
    assert [n for n in lengths if find_damage(content[:n].ljust(len(content), b"\0")) is None] == []


@pytest.mark.parametrize("name", _PNGS)
def test_a_png_cut_anywhere_behind_its_signature_is_found(name):
    content = _PNGS[name]()
    # The last 12 bytes are a length, the name IEND and a checksum, without pixels.
    accepted = [n for n in range(8, len(content) - 4) if find_damage(content[:n]) is None]
    assert accepted == []


@pytest.mark.parametrize("name", _WHOLE)
def test_no_shorter_file_is_loaded(name, tmp_path):
    # A file cut before its pixels shows no damage itself, but cannot be decoded.
    content, path = _WHOLE[name](), tmp_path / "image.jpg"
    load = LoadImageFromFile(value_range=(0, 65535) if "16 bit" in name else None)
    tail = range(len(content) - 12, len(content) - 4)
    for length in {*range(0, 40), *range(40, len(content) - 12, 23), *tail}:
        for filled in (length, len(content)):
            path.write_bytes(content[:length].ljust(filled, b"\0"))
            with pytest.raises(CorruptFileError, match=r"image\.jpg: .*; expected an image"):
                load.transform(dict(img_path=str(path)))
    path.write_bytes(content)
    assert load.transform(dict(img_path=str(path)))["img"].shape[2] == 3


def test_undecodable_files_are_damaged(tmp_path):
    header = struct.pack(">IIBBBBB", 200_000, 200_000, 8, 0, 0, 0, 0)
    content = b"\x89PNG\r\n\x1a\n"
    for kind, data in ((b"IHDR", header), (b"IDAT", zlib.compress(bytes(9))), (b"IEND", b"")):
        content += struct.pack(">I", len(data)) + kind + data
        content += struct.pack(">I", zlib.crc32(kind + data))
    (tmp_path / "image.png").write_bytes(content)
    for backend in ("cv2", "pillow"):
        load = LoadImageFromFile(imdecode_backend=backend)
        with pytest.raises(CorruptFileError, match=r"image\.png: cannot be decoded \(.*an image$"):
            load.transform(dict(img_path=str(tmp_path / "image.png")))


def test_the_fault_is_named():
    assert find_damage(b"") == "the file is empty"
    assert find_damage(_JPEGS["cv2"]()[:-2]) == "the JPEG is truncated"
    assert find_damage(_PNGS["cv2"]()[:-12]) == "the PNG is truncated"


def test_other_files_are_left_to_the_decoder():
    assert find_damage(b"no image") is None
    assert find_damage(_by_cv2(_picture(), ".bmp")) is None
    assert find_damage(_by_pillow(_picture(), "WEBP")) is None


@pytest.mark.parametrize("kind", ["JPEG with a video", "JPEG with a cut preview", "PNG"])
def test_appended_data_does_not_matter(kind):
    # Phones append a video or a preview to an image; the image stays valid.
    if kind == "PNG":
        content = _PNGS["cv2"]() + bytes(2000)
    else:
        preview = _by_pillow(_picture(16, 24), "JPEG")
        content = _JPEGS["cv2"]() + (
            b"ftypmp42" + _END + b"\0" + _SCAN + b"\0" if "video" in kind else preview[:-9]
        )
    assert mmcv.imfrombytes(content) is not None
    assert find_damage(content) is None
