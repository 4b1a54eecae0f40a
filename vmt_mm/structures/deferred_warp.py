"""A warp that is sampled in the data pipeline and applied on the model's device."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from vmt_mm.tasks.labels import LabelSpec
from vmt_mm.tasks.warps import Warp


@dataclass(frozen=True)
class DeferredWarp:
    """Warp of one image and its labels, still to be applied on the model's device."""

    key: ClassVar[str] = "deferred_warp"  # in a pipeline's results and a sample's metainfo

    warp: Warp
    source: tuple[int, int]  # (h, w) of the image and the labels
    fill: tuple[float, ...]  # border colour, in the image's channel order
    specs: Mapping[str, LabelSpec]  # task -> label spec
