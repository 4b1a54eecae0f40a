"""The Python API: load a config, build a model, predict."""

from vmt_mm.apis.inference import inference_model, init_model
from vmt_mm.apis.inferencer import MultiTaskInferencer
from vmt_mm.apis.tta import apply_tta
from vmt_mm.config.load import load_config

__all__ = ["MultiTaskInferencer", "apply_tta", "inference_model", "init_model", "load_config"]
