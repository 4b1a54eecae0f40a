"""Tasks: one file says everything that one kind of task means."""

from vmt_mm.tasks.depth import Depth
from vmt_mm.tasks.edge import Edge
from vmt_mm.tasks.labels import LabelCounts, LabelSpec
from vmt_mm.tasks.normals import Normals
from vmt_mm.tasks.saliency import Saliency
from vmt_mm.tasks.segmentation import Segmentation
from vmt_mm.tasks.task import Task, build_tasks
from vmt_mm.tasks.warps import BatchWarp, Warp

__all__ = [
    "BatchWarp",
    "Depth",
    "Edge",
    "LabelCounts",
    "LabelSpec",
    "Normals",
    "Saliency",
    "Segmentation",
    "Task",
    "Warp",
    "build_tasks",
]
