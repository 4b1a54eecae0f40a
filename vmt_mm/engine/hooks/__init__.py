"""Hooks."""

from vmt_mm.engine.hooks.checkpoint import CheckpointHook
from vmt_mm.engine.hooks.ema import EMAHook
from vmt_mm.engine.hooks.finite_loss import FiniteLossHook
from vmt_mm.engine.hooks.graceful_stop import GracefulStopHook, InterruptedTraining
from vmt_mm.engine.hooks.label_report import LabelReportHook
from vmt_mm.engine.hooks.prediction_writer import PredictionWriterHook
from vmt_mm.engine.hooks.step_time import StepTimeHook
from vmt_mm.engine.hooks.sync_buffers import SyncBuffersHook
from vmt_mm.engine.hooks.visualization import MultiTaskVisualizationHook

__all__ = [
    "CheckpointHook",
    "EMAHook",
    "FiniteLossHook",
    "GracefulStopHook",
    "InterruptedTraining",
    "LabelReportHook",
    "MultiTaskVisualizationHook",
    "PredictionWriterHook",
    "StepTimeHook",
    "SyncBuffersHook",
]
