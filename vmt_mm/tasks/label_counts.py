"""What the labels of many images hold, counted, so that they can be judged together."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field


@dataclass
class LabelCounts:
    """Counts over the labels of one task; those of several images add up.

    Attributes:
        images: labels counted.
        constant: labels all of whose valid pixels have one value.
        pixels: of these labels.
        valid: pixels that carry a label.
        values: value -> pixels, for labels of whole numbers; pixels without a label left out.
        images_with: value -> images, likewise.
        facts: what a kind of label counts besides, name -> pixels.
    """

    images: int = 0
    constant: int = 0
    pixels: int = 0
    valid: int = 0
    values: Counter[int] = field(default_factory=Counter)
    images_with: Counter[int] = field(default_factory=Counter)
    facts: Counter[str] = field(default_factory=Counter)

    def add(self, other: LabelCounts) -> None:
        """Count other labels as well."""
        self.images += other.images
        self.constant += other.constant
        self.pixels += other.pixels
        self.valid += other.valid
        self.values.update(other.values)
        self.images_with.update(other.images_with)
        self.facts.update(other.facts)
