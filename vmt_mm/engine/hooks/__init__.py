"""Hooks."""

from vmt_mm.engine.hooks.checkpoint import CheckpointHook
from vmt_mm.engine.hooks.parameter_table import ParameterTableHook
from vmt_mm.engine.hooks.prediction_writer import PredictionWriterHook
from vmt_mm.engine.hooks.visualization import MultiTaskVisualizationHook

__all__ = [
    "CheckpointHook",
    "MultiTaskVisualizationHook",
    "ParameterTableHook",
    "PredictionWriterHook",
]
