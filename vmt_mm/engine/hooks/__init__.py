"""Hooks."""

from vmt_mm.engine.hooks.averages import EMAHook, SyncBuffersHook
from vmt_mm.engine.hooks.checkpoint import CheckpointHook
from vmt_mm.engine.hooks.finite_loss import FiniteLossHook
from vmt_mm.engine.hooks.graceful_stop import GracefulStopHook, InterruptedTraining
from vmt_mm.engine.hooks.label_report import LabelReportHook
from vmt_mm.engine.hooks.visualization import MultiTaskVisualizationHook, PredictionWriterHook

__all__ = [
    "CheckpointHook",
    "EMAHook",
    "FiniteLossHook",
    "GracefulStopHook",
    "InterruptedTraining",
    "LabelReportHook",
    "MultiTaskVisualizationHook",
    "PredictionWriterHook",
    "SyncBuffersHook",
]
