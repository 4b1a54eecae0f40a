"""A trained model on the CPU, for exporting and measuring."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mmengine.config import Config
from mmengine.registry import init_default_scope

from vmt_mm.apis import load_config
from vmt_mm.engine.loading import describe, load_model
from vmt_mm.errors import InputError
from vmt_mm.models import MultiTaskSegmentor
from vmt_mm.registry import MODELS
from vmt_mm.utils.checkpoint_file import read_checkpoint


def load_trained(
    config: str, checkpoint: str, options: Mapping[str, Any] | None = None
) -> tuple[MultiTaskSegmentor, Config]:
    """Build a config's model and load a checkpoint, strictly; in eval mode, on the CPU.

    Raises:
        InputError: if the config's model is none for many tasks, or the checkpoint does not fit it.
    """
    cfg = load_config(config, options, training=False)
    init_default_scope(cfg.get("default_scope", "vmt_mm"))
    model_cfg = cfg.get("model")
    kind = model_cfg.get("type") if isinstance(model_cfg, Mapping) else None
    if MODELS.get(str(kind)) is not MultiTaskSegmentor:
        raise InputError(f"{config}: its `model` must be of type MultiTaskSegmentor")
    model = MODELS.build(model_cfg)
    load_model(model, read_checkpoint(checkpoint), checkpoint, describe(model, model_cfg))
    return model.eval(), cfg
