"""Export models to ONNX and torch.export files, and check the files against PyTorch."""

from vmt_mm.export.check import compare_outputs, example_inputs, measure_latency, write_checked
from vmt_mm.export.formats import DYNAMIC, FORMATS, Format, Forward
from vmt_mm.export.outputs import DESCRIPTION, OUTPUTS, TaskOutputs, describe_model

__all__ = [
    "DESCRIPTION",
    "DYNAMIC",
    "FORMATS",
    "OUTPUTS",
    "Format",
    "Forward",
    "TaskOutputs",
    "compare_outputs",
    "describe_model",
    "example_inputs",
    "measure_latency",
    "write_checked",
]
