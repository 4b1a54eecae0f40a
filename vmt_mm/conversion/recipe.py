"""What a converter has to know of a raw data set."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np

#: Counts of one image, or of all, such as valid pixels; a recipe's ``judge`` looks at their sums.
Notes = Mapping[str, int]


@dataclass(frozen=True)
class Label:
    """One image's label for one task.

    Attributes:
        values: (H, W) or RGB (H, W, 3), as the file is to hold them; None where the image has no
            such label.
        notes: see :data:`Notes`.
    """

    values: np.ndarray | None
    notes: Notes = field(default_factory=dict)


@dataclass(frozen=True)
class LabelRule:
    """How the label of one task is made.

    Attributes:
        task: folder of the labels.
        files: the raw files that it needs; of alternatives the first that is there. In their names
            ``{id}`` stands for the image's.
        make: called with the paths of these files, then with those of ``optional``; a function of a
            module's top level, or a ``functools.partial`` of one. Raises InputError where a file
            cannot be used.
        optional: raw files that it can do without; None in place of the path of one that is not
            there.
    """

    task: str
    files: tuple[tuple[str, ...], ...]
    make: Callable[..., Label]
    optional: tuple[str, ...] = ()


@dataclass(frozen=True)
class Recipe:
    """A raw data set.

    Attributes:
        name: what it is called.
        splits: name of a split -> raw file with its ids.
        expected: name of a split -> how many ids it has.
        image: raw file of an image, with ``{id}``.
        labels: one rule a task.
        settings: what else the labels depend on; another setting converts anew.
        judge: says what the notes of all images, by task, show to be wrong.
    """

    name: str
    splits: Mapping[str, str]
    expected: Mapping[str, int]
    image: str
    labels: tuple[LabelRule, ...]
    settings: Mapping[str, str] = field(default_factory=dict)
    judge: Callable[[Mapping[str, Notes]], list[str]] | None = None

    def files_of(self, image_id: str) -> Iterator[str]:
        """Every raw file that may belong to an image, once."""
        templates = [self.image]
        for rule in self.labels:
            templates += [name for names in rule.files for name in names]
            templates += rule.optional
        for template in dict.fromkeys(templates):
            yield template.format(id=image_id)
