"""Convert one image with its labels, in a worker process."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from vmt_mm.conversion.recipe import LabelRule, Recipe
from vmt_mm.errors import InputError
from vmt_mm.utils.files import DISK_FULL, write_bytes, write_image
from vmt_mm.utils.image_files import decode_image

#: Outcome of an image or a label; 'no image': label of an unusable image.
STATES = ("written", "none", "missing", "damaged", "no image")
WRITTEN, NONE, MISSING, DAMAGED, NO_IMAGE = STATES

#: ``state``, one of the above, and optionally ``bytes`` (written), ``notes``, ``reason``.
Outcome = dict[str, Any]
Size = tuple[int, int]


class _MissingFileError(InputError):
    """A raw file does not exist."""


@dataclass(frozen=True)
class ImageJob:
    """One image to convert from folder ``source`` to ``target``; ``link``: hard-link it."""

    image_id: str
    recipe: Recipe
    source: Path
    target: Path
    link: bool

    def outputs(self) -> dict[str, Path]:
        """Return the paths to write, with the keys 'image' and each task."""
        image = f"images/{self.image_id}{Path(self.recipe.image).suffix}"
        labels = {rule.task: f"{rule.task}/{self.image_id}.png" for rule in self.recipe.labels}
        return {name: self.target / file for name, file in dict(image=image, **labels).items()}

    def find(self, group: Sequence[str | None]) -> Path | None:
        """Return the first existing raw file of a group; None if an optional group has none."""
        files = [file.format(id=self.image_id) for file in group if file]
        paths = (self.source / file for file in files)
        path = next((path for path in paths if path.exists()), None)
        if path is None and None not in group:
            raise _MissingFileError(f"{' or '.join(files)}: missing")
        return path


def convert_image(job: ImageJob) -> dict[str, Outcome]:
    """Write the image and its labels; return the outcome per task, and of 'image'.

    Outputs that can no longer be made are removed. Problems name files relative to the source.
    """
    rules = {rule.task: rule for rule in job.recipe.labels}
    outcomes: dict[str, Outcome] = {}
    size = None
    for name, path in job.outputs().items():
        try:
            if name == "image":
                size, outcome = _write_image(job, path), dict(state=WRITTEN)
            else:
                outcome = _write_label(job, rules[name], path, size)
        except InputError as error:
            state = MISSING if isinstance(error, _MissingFileError) else DAMAGED
            outcome = dict(state=state, reason=str(error).replace(f"{job.source}{os.sep}", ""))
        if outcome["state"] == WRITTEN:
            outcome["bytes"] = path.stat().st_size
        else:
            path.unlink(missing_ok=True)
        outcomes[name] = outcome
    return outcomes


def _write_image(job: ImageJob, target: Path) -> Size:
    """Copy or hard-link the image file unchanged; return (height, width)."""
    source = cast(Path, job.find((job.recipe.image,)))
    try:
        content = source.read_bytes()
    except OSError as error:
        if error.errno in DISK_FULL:
            raise
        raise InputError(f"{source}: {error.strerror}; expected an image") from None
    height, width = decode_image(content, str(source)).shape[:2]
    if job.link:
        target.parent.mkdir(parents=True, exist_ok=True)
        target.unlink(missing_ok=True)
        os.link(source, target)
    else:
        write_bytes(target, content)
    return height, width


def _write_label(job: ImageJob, rule: LabelRule, target: Path, size: Size | None) -> Outcome:
    """Make and write a label, if any; ``size`` is the image's, None if it is unusable."""
    paths = [job.find(group) for group in rule.files]
    if size is None:
        return dict(state=NO_IMAGE)
    label = rule.make(*paths)
    if label.values is None:
        return dict(state=NONE)
    if label.values.shape[:2] != size:
        sizes = f"{label.values.shape[:2]} (height, width), but the image has {size}"
        raise InputError(f"{paths[0]}: label of size {sizes}")
    write_image(target, label.values)
    return dict(state=WRITTEN, notes=dict(label.notes))
