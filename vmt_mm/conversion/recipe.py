"""What a converter has to know of a raw dataset."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np


@dataclass(frozen=True)
class Label:
    """One image's label for one task, and counts whose sums a recipe's ``judge`` looks at."""

    values: np.ndarray | None  # (H, W) or RGB (H, W, 3), as in the file; None for no label
    notes: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class LabelRule:
    """How the label of one task is made of raw ``files``, with ``{id}`` for the image's id."""

    task: str
    files: tuple[tuple[str | None, ...], ...]  # groups: the first that exists; None: optional
    make: Callable[..., Label]  # of a path (or None) per group, can be pickled; or InputError


@dataclass(frozen=True)
class Recipe:
    """A raw dataset; with other ``settings`` all is converted again.

    ``judge`` says what the notes of all images, summed by task, show to be wrong.
    """

    name: str
    splits: Mapping[str, str]  # name -> raw file with its ids
    expected: Mapping[str, int]  # name -> how many ids it has
    image: str  # raw file, with ``{id}``
    labels: tuple[LabelRule, ...]
    settings: Mapping[str, str] = field(default_factory=dict)
    judge: Callable[[Mapping[str, Mapping[str, int]]], list[str]] | None = None

    def files_of(self, image_id: str) -> list[str]:
        """Every raw file that may belong to an image, once."""
        groups = [(self.image,), *(group for rule in self.labels for group in rule.files)]
        files = dict.fromkeys(file for group in groups for file in group if file)
        return [file.format(id=image_id) for file in files]
