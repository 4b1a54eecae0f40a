"""Metrics of the tasks and their evaluator."""

from vmt_mm.evaluation.depth import DepthMetric
from vmt_mm.evaluation.edge import EdgeMetric
from vmt_mm.evaluation.evaluator import MultiTaskEvaluator, relative_gain
from vmt_mm.evaluation.iou import SegmentationMetric
from vmt_mm.evaluation.normals import NormalsMetric
from vmt_mm.evaluation.saliency import SaliencyMetric
from vmt_mm.evaluation.task_metric import TaskMetric

__all__ = [
    "DepthMetric",
    "EdgeMetric",
    "MultiTaskEvaluator",
    "NormalsMetric",
    "SaliencyMetric",
    "SegmentationMetric",
    "TaskMetric",
    "relative_gain",
]
