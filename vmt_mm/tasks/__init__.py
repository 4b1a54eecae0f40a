"""Dense tasks: labels, loss, metric and drawing of each kind in one module."""

from vmt_mm.tasks.depth import Depth as Depth
from vmt_mm.tasks.edge import Edge as Edge
from vmt_mm.tasks.labels import LabelCounts as LabelCounts
from vmt_mm.tasks.labels import LabelSpec as LabelSpec
from vmt_mm.tasks.normals import Normals as Normals
from vmt_mm.tasks.saliency import Saliency as Saliency
from vmt_mm.tasks.segmentation import Segmentation as Segmentation
from vmt_mm.tasks.task import Task as Task
from vmt_mm.tasks.task import build_tasks as build_tasks
from vmt_mm.tasks.warps import BatchWarp as BatchWarp
from vmt_mm.tasks.warps import Warp as Warp
