"""Remember what was converted from what, so that a second run does only what is missing."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from vmt_mm.conversion.image import DAMAGED, WRITTEN, Outcome, image_path, label_path
from vmt_mm.conversion.recipe import Recipe
from vmt_mm.conversion.source import Stamp
from vmt_mm.errors import InputError
from vmt_mm.utils.files import write_bytes

#: File beside the converted folders: a header, then a line for each image that is done.
JOURNAL = "conversion.jsonl"
# To be raised whenever the same raw files come to give other labels.
_VERSION = 1

#: Stamps of an image's raw files; None for those that are not there.
Stamps = Mapping[str, Stamp | None]


class Journal:
    """The images of a folder that are done.

    Lines are appended once an image's files are written. A line that a kill cut short counts for
    nothing: its image is converted again.

    Args:
        target: the folder; made if it is not there.
        recipe: of the data set.

    Raises:
        InputError: if the folder holds something else.
    """

    def __init__(self, target: Path, recipe: Recipe) -> None:
        self._target, self._recipe = target, recipe
        self._path = target / JOURNAL
        self._header = dict(
            recipe=recipe.name, version=_VERSION, settings=dict(sorted(recipe.settings.items()))
        )
        self._done = self._read()

    def outcomes(self, image_id: str, stamps: Stamps) -> dict[str, Outcome] | None:
        """What became of an image, if its raw files and what was written are as they were."""
        entry = self._done.get(image_id)
        if entry is None or entry["sources"] != _plain(stamps):
            return None
        outcomes = entry["outcomes"]
        places = {"image": image_path(self._target, self._recipe, image_id)}
        for rule in self._recipe.labels:
            places[rule.task] = label_path(self._target, rule, image_id)
        whole = outcomes.keys() == places.keys() and all(
            outcome["state"] != DAMAGED
            and _size(places[name]) == (outcome["bytes"] if outcome["state"] == WRITTEN else None)
            for name, outcome in outcomes.items()
        )
        return outcomes if whole else None

    def create(self) -> None:
        """Take possession of a new folder."""
        if not self._path.is_file():
            self.start({})

    def start(self, kept: Mapping[str, tuple[Stamps, dict[str, Outcome]]]) -> None:
        """Begin anew with the images that are kept."""
        lines = [json.dumps(self._header)]
        lines += [_line(image_id, *entry) for image_id, entry in kept.items()]
        write_bytes(self._path, "".join(f"{line}\n" for line in lines).encode())

    def add(self, image_id: str, stamps: Stamps, outcomes: dict[str, Outcome]) -> None:
        """Note that an image is done."""
        with self._path.open("a", encoding="utf-8") as file:
            file.write(_line(image_id, stamps, outcomes) + "\n")

    def _read(self) -> dict[str, dict[str, Any]]:
        if self._target.exists() and not self._target.is_dir():
            raise InputError(f"{self._target}: is a file; expected a folder, or nothing there yet")
        if not self._path.is_file():
            if self._target.is_dir() and any(self._target.iterdir()):
                raise InputError(
                    f"{self._target}: is not empty and no converter wrote it (there is no "
                    f"{JOURNAL}); give a new folder"
                )
            return {}
        header, *entries = list(self._lines()) or [{}]
        if header.get("recipe", self._recipe.name) != self._recipe.name:
            raise InputError(
                f"{self._target}: holds {header['recipe']}, not {self._recipe.name}; give another "
                "folder"
            )
        return {e["id"]: e for e in entries} if header == self._header else {}

    def _lines(self) -> Iterator[dict[str, Any]]:
        for line in self._path.read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                yield json.loads(line)
            except ValueError:
                continue


def _line(image_id: str, stamps: Stamps, outcomes: dict[str, Outcome]) -> str:
    return json.dumps(dict(id=image_id, sources=_plain(stamps), outcomes=outcomes))


def _plain(stamps: Stamps) -> dict[str, list[int] | None]:
    return {file: list(stamp) if stamp else None for file, stamp in stamps.items()}


def _size(path: Path) -> int | None:
    return path.stat().st_size if path.is_file() else None
