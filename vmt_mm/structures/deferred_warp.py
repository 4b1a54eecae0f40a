"""A warp that was drawn in the data pipeline and is left to the model's device."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from vmt_mm.tasks.labels import LabelSpec
from vmt_mm.tasks.warps import Warp


@dataclass(frozen=True)
class DeferredWarp:
    """What has to be done yet to one image and its labels.

    Attributes:
        key: where pipelines and samples keep it.
        warp: the map that was drawn.
        source: (h, w) of the image and of the labels that wait.
        fill: colour of new pixels in the image, in its channel order.
        specs: task -> spec of each label that waits; the others are warped already.
    """

    key: ClassVar[str] = "deferred_warp"

    warp: Warp
    source: tuple[int, int]
    fill: tuple[float, ...]
    specs: Mapping[str, LabelSpec]
