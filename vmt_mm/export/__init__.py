"""Models without this project: ONNX and torch.export files, checked against PyTorch."""

from vmt_mm.export.check import compare_outputs, example_inputs, measure_latency
from vmt_mm.export.formats import FORMATS, Format
from vmt_mm.export.model_spec import DESCRIPTION, describe_model
from vmt_mm.export.outputs import OUTPUTS, TaskOutputs
from vmt_mm.export.write import write_checked

__all__ = [
    "DESCRIPTION",
    "FORMATS",
    "OUTPUTS",
    "Format",
    "TaskOutputs",
    "compare_outputs",
    "describe_model",
    "example_inputs",
    "measure_latency",
    "write_checked",
]
