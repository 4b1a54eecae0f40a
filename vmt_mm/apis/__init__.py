"""What the tools are made of, for use from Python."""

from vmt_mm.apis.cli import (
    add_config_arguments,
    add_model_arguments,
    add_run_arguments,
    apply_run_arguments,
)
from vmt_mm.apis.failures import friendly_errors
from vmt_mm.apis.inference import inference_model, init_model
from vmt_mm.apis.inferencer import MultiTaskInferencer
from vmt_mm.apis.launch import distributed
from vmt_mm.apis.tta import apply_tta
from vmt_mm.config.inputs import check_inputs
from vmt_mm.config.load import load_config

__all__ = [
    "MultiTaskInferencer",
    "add_config_arguments",
    "add_model_arguments",
    "add_run_arguments",
    "apply_run_arguments",
    "apply_tta",
    "check_inputs",
    "distributed",
    "friendly_errors",
    "inference_model",
    "init_model",
    "load_config",
]
