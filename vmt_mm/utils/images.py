"""Tell whole image files from damaged ones."""

from __future__ import annotations

_JPEG, _JPEG_SCAN, _JPEG_END = b"\xff\xd8", b"\xff\xda", b"\xff\xd9"
_PNG, _PNG_END = b"\x89PNG\r\n\x1a\n", b"IEND"
#: What follows the last chunk's name in a PNG, and what some writers append.
_TAIL = 1024


def find_damage(content: bytes) -> str | None:
    """Say what is wrong with an image file; None where nothing is seen.

    Decoders fill what is missing of a truncated JPEG with grey, and say nothing. Within a JPEG's
    coded data a byte 0xff is always followed by 0x00, so the marker of its end cannot occur by
    chance; an embedded preview may hold one, but before the picture's own scan.

    Args:
        content: the file.
    """
    if not content:
        return "the file is empty"
    if content.startswith(_JPEG) and content.rfind(_JPEG_END) < content.rfind(_JPEG_SCAN):
        return "the JPEG is truncated"
    if content.startswith(_PNG) and _PNG_END not in content[-_TAIL:]:
        return "the PNG is truncated"
    return None
