"""Convert one image with its labels: what a worker process does."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vmt_mm.conversion.recipe import LabelRule, Recipe
from vmt_mm.errors import InputError
from vmt_mm.utils.files import DISK_FULL, write_bytes, write_image
from vmt_mm.utils.image_files import decode_image

#: What became of an image or a label; the last for labels of an image that cannot be used.
WRITTEN, NONE, MISSING, DAMAGED, NO_IMAGE = "written", "none", "missing", "damaged", "no image"

#: An outcome and what belongs to it: ``bytes`` written, ``notes``, or ``reasons``, one a file.
Outcome = dict[str, Any]


@dataclass(frozen=True)
class ImageJob:
    """One image to convert.

    Attributes:
        image_id: its id.
        recipe: of the data set.
        source: folder of the raw files.
        files: raw files that are there.
        target: folder to write to.
        link: make a hard link of the image instead of a copy.
        is_copy: the raw files are copies that go in the end; the image is linked where that can be
            done, else copied.
    """

    image_id: str
    recipe: Recipe
    source: Path
    files: frozenset[str]
    target: Path
    link: bool
    is_copy: bool = False

    def raw(self, template: str) -> str | None:
        """The raw file of this image, if it is there."""
        file = template.format(id=self.image_id)
        return file if file in self.files else None


def image_path(target: Path, recipe: Recipe, image_id: str) -> Path:
    """Where the image goes."""
    return target / "images" / f"{image_id}{Path(recipe.image).suffix}"


def label_path(target: Path, rule: LabelRule, image_id: str) -> Path:
    """Where a label goes."""
    return target / rule.task / f"{image_id}.png"


def convert_image(job: ImageJob) -> dict[str, Outcome]:
    """Write the image and its labels; return what became of each, by task and 'image'.

    Labels of an image that cannot be used are not written. A label that is not there any more, or
    cannot be made any more, is removed.
    """
    outcomes: dict[str, Outcome] = {}
    path = image_path(job.target, job.recipe, job.image_id)
    try:
        outcomes["image"], content, size = _read_image(job)
    except InputError as error:
        outcomes["image"], content, size = _damaged(error, job), None, None
    if content is None:
        path.unlink(missing_ok=True)
    else:
        _place_image(job, path, content)
        outcomes["image"]["bytes"] = len(content)
    for rule in job.recipe.labels:
        path = label_path(job.target, rule, job.image_id)
        try:
            outcome, values = _make_label(job, rule, size)
        except InputError as error:
            outcome, values = _damaged(error, job), None
        if values is None:
            path.unlink(missing_ok=True)
        else:
            write_image(path, values)
            outcome["bytes"] = path.stat().st_size
        outcomes[rule.task] = outcome
    return outcomes


def _missing(alternatives: list[tuple[str, ...]], job: ImageJob) -> Outcome:
    """Of each group of files none is there, and any one would do."""
    files = [" or ".join(names).format(id=job.image_id) for names in alternatives]
    return dict(state=MISSING, reasons=[f"{file}: missing" for file in files])


def _damaged(error: InputError, job: ImageJob) -> Outcome:
    """With the file's name as the raw data set has it, wherever it was unpacked."""
    return dict(state=DAMAGED, reasons=[str(error).replace(f"{job.source}{os.sep}", "")])


def _read_image(job: ImageJob) -> tuple[Outcome, bytes | None, tuple[int, int] | None]:
    """The image file's content and its (height, width)."""
    file = job.raw(job.recipe.image)
    if file is None:
        return _missing([(job.recipe.image,)], job), None, None
    try:
        content = (job.source / file).read_bytes()
    except OSError as error:
        if error.errno in DISK_FULL:
            raise
        raise InputError(f"{file}: {error.strerror}; expected an image") from None
    return dict(state=WRITTEN), content, decode_image(content, file).shape[:2]


def _place_image(job: ImageJob, target: Path, content: bytes) -> None:
    """Copy or link an image as it is."""
    if not (job.link or job.is_copy):
        write_bytes(target, content)
        return
    source = job.source / job.recipe.image.format(id=job.image_id)
    target.parent.mkdir(parents=True, exist_ok=True)
    target.unlink(missing_ok=True)
    try:
        os.link(source, target)
    except OSError as error:
        if job.is_copy:  # the file system has no links
            write_bytes(target, content)
            return
        raise InputError(
            f"{target}: no hard link to {source} can be made ({error.strerror}); convert without "
            "--link"
        ) from None


def _make_label(
    job: ImageJob, rule: LabelRule, size: tuple[int, int] | None
) -> tuple[Outcome, np.ndarray | None]:
    """Make a label; raise InputError if it cannot be made."""
    found = [next(filter(None, map(job.raw, names)), None) for names in rule.files]
    lacking = [names for names, file in zip(rule.files, found, strict=True) if file is None]
    if lacking:
        return _missing(lacking, job), None
    if size is None:
        return dict(state=NO_IMAGE), None
    optional = [job.raw(name) for name in rule.optional]
    paths = [file and job.source / file for file in (*found, *optional)]
    label = rule.make(*paths)
    if label.values is None:
        return dict(state=NONE), None
    if label.values.shape[:2] != size:
        raise InputError(
            f"{paths[0]}: label of size {label.values.shape[:2]} (height, width), but the image "
            f"has {size}"
        )
    return dict(state=WRITTEN, notes=dict(label.notes)), label.values
