"""Metrics of single tasks, and the multi-task evaluator."""

from vmt_mm.evaluation.depth import DepthMetric as DepthMetric
from vmt_mm.evaluation.edge import EdgeMetric as EdgeMetric
from vmt_mm.evaluation.evaluator import MultiTaskEvaluator as MultiTaskEvaluator
from vmt_mm.evaluation.evaluator import relative_gain as relative_gain
from vmt_mm.evaluation.iou import SegmentationMetric as SegmentationMetric
from vmt_mm.evaluation.normals import NormalsMetric as NormalsMetric
from vmt_mm.evaluation.saliency import SaliencyMetric as SaliencyMetric
from vmt_mm.evaluation.task_metric import TaskMetric as TaskMetric
