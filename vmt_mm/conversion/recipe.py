"""Description of a raw dataset for the converter."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np


@dataclass(frozen=True)
class Label:
    """One label, and counts whose sums over all images the recipe's ``judge`` checks."""

    values: np.ndarray | None  # (H, W) or RGB (H, W, 3) to write; None: no label
    notes: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class LabelRule:
    """How to make the label of one task from raw ``files``; ``{id}`` is the image's id."""

    task: str
    files: tuple[tuple[str | None, ...], ...]  # groups: first existing file; None: optional
    make: Callable[..., Label]  # picklable; takes a path (or None) per group; may raise InputError


@dataclass(frozen=True)
class Recipe:
    """A raw dataset and how to convert it.

    Changed ``settings`` cause a full conversion. ``judge`` maps sums of notes per task to problems.
    ``unpack`` writes the content of another archive than a tar file to a folder.
    """

    name: str
    splits: Mapping[str, str]  # name -> raw split file
    expected: Mapping[str, int]  # name -> number of ids
    image: str  # raw file, with ``{id}``
    labels: tuple[LabelRule, ...]
    settings: Mapping[str, str] = field(default_factory=dict)
    judge: Callable[[Mapping[str, Mapping[str, int]]], list[str]] | None = None
    camera: tuple[float, ...] | None = None  # fx, fy, cx, cy in pixels
    unpack: Callable[[Path, Path], None] | None = None  # may raise InputError

    def files_of(self, image_id: str) -> list[str]:
        """List all raw files that may belong to an image, without duplicates."""
        groups = [(self.image,), *(group for rule in self.labels for group in rule.files)]
        files = dict.fromkeys(file for group in groups for file in group if file)
        return [file.format(id=image_id) for file in files]
