"""A warp that was drawn in the data pipeline and is left to the model's device."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from vmt_mm.tasks.labels import LabelSpec
from vmt_mm.tasks.warps import Warp


@dataclass(frozen=True)
class DeferredWarp:
    """The warp of one image and its labels that the model's device has to do."""

    key: ClassVar[str] = "deferred_warp"  # where pipelines and samples keep it

    warp: Warp
    source: tuple[int, int]  # (h, w) of the image and the labels
    fill: tuple[float, ...]  # colour of new pixels in the image, in its channel order
    specs: Mapping[str, LabelSpec]  # task -> spec of its label
