"""Lists of ids and the files that belong to them, in the one folder layout."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from vmt_mm.errors import InputError

#: Endings that an image may have.
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png")


def read_ids(path: Path) -> list[str]:
    """Read a split: one id a line; refuse what would count an image twice or leave the folder."""
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError:
        raise InputError(f"{path}: is no text in UTF-8; expected one id a line") from None
    ids = [line.strip() for line in lines if line.strip()]
    if not ids:
        raise InputError(f"{path}: holds no id")
    if null := next((i for i in ids if "\0" in i), None):
        raise InputError(f"{path}: id {null!r} holds a NUL byte; expected one id a line")
    outside = [i for i in ids if i.startswith(("/", "\\")) or ".." in Path(i).parts]
    if outside:
        raise InputError(
            f"{path}: id {outside[0]!r} leads out of the data set; expected paths below images/, "
            "without suffix"
        )
    if len(set(ids)) < len(ids):
        twice = next(i for i, count in Counter(ids).items() if count > 1)
        raise InputError(f"{path}: id {twice!r} is listed twice")
    return ids


def files_by_id(folder: Path, suffixes: tuple[str, ...]) -> dict[str, str]:
    """Paths of the files below ``folder`` by their id, the path relative to it without suffix."""
    if not folder.is_dir():
        return {}
    files: dict[str, str] = {}
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() not in suffixes:
            continue
        name = path.relative_to(folder).with_suffix("").as_posix()
        if name in files:
            raise InputError(f"{path} and {files[name]} have the same id; remove one of them")
        files[name] = str(path)
    return files
