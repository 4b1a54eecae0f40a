"""Load a trained model and predict single images, as mmseg's functions of the same names do."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.device import get_device
from mmengine.logging import print_log
from mmengine.registry import init_default_scope
from torch import nn

import vmt_mm
from vmt_mm.apis.inference_pipeline import Image, InferencePipeline
from vmt_mm.checkpoints.files import read_checkpoint
from vmt_mm.config.load import load_config
from vmt_mm.config.tree import dicts_in
from vmt_mm.errors import InputError
from vmt_mm.loading.adapters import load_adapter
from vmt_mm.loading.model import describe, load_model
from vmt_mm.registry import DATASETS, MODELS
from vmt_mm.structures import MultiTaskDataSample

#: Ending of adapter files.
_ADAPTER = ".safetensors"
#: The trained model that ships with the package.
EMBEDDED_ADAPTER = str(Path(vmt_mm.__file__).parent / "weights/vmt_swin-nano_shapes.safetensors")


def init_model(
    config_or_adapter: str | Path | Mapping[str, Any],
    checkpoint: str | Path | None = None,
    device: str | torch.device | None = None,
    cfg_options: Mapping[str, Any] | None = None,
) -> nn.Module:
    """Build a model and load what it was trained to.

    Args:
        config_or_adapter: a config file, a config or dictionary, which mean the same as the file,
            or an adapter file (``.safetensors``).
        checkpoint: the config's checkpoint. With None the heads predict noise, as a warning says.
        device: where to; None takes the best one there is.
        cfg_options: merged into the config; of an adapter's only ``pretrained`` can be set.

    Returns:
        The model in eval mode, with ``cfg`` and ``dataset_meta``: task -> ``dict(classes=...,
        palette=...)``, where the data set names classes.

    Raises:
        InputError: if a file is missing or damaged, or the checkpoint fits another model.
    """
    device = check_device(device)
    if isinstance(config_or_adapter, (str, Path)):
        config_or_adapter = os.path.expanduser(config_or_adapter)
    if is_adapter(config_or_adapter):
        return _init_adapter(config_or_adapter, checkpoint, device, dict(cfg_options or {}))
    cfg = load_config(config_or_adapter, cfg_options, training=False)
    if not isinstance(cfg.get("model"), Mapping):
        raise InputError(f"{cfg.filename or 'the config'}: the config has no `model`")
    init_default_scope(cfg.get("default_scope", "vmt_mm"))
    model = MODELS.build(cfg.model)
    if not hasattr(model, "tasks"):
        raise InputError(f"{cfg.filename or 'the config'}: its model is no multi-task model")
    meta: Mapping[str, Any] = {}
    if checkpoint is None:
        print_log("no checkpoint is given: the heads are untrained", "current", logging.WARNING)
        model.init_weights()
    else:
        content = read_checkpoint(str(checkpoint))
        load_model(model, content, str(checkpoint), describe(model, cfg.model))
        meta = content.get("meta") or {}
    model.cfg = cfg
    model.dataset_meta = _metainfo(cfg, meta.get("dataset_meta") or {})
    return model.to(device).eval()


def inference_model(
    model: nn.Module,
    images: Image | Sequence[Image],
    tasks: Sequence[str] | None = None,
) -> MultiTaskDataSample | list[MultiTaskDataSample]:
    """Predict one image, or several in one batch.

    Args:
        model: of :func:`init_model`.
        images: path, or array of pixels, or a list of these. Arrays are (H, W, 3) BGR uint8, or
            what the config's ``LoadImageFromFile`` makes an image of: grey, 16-bit, four channels.
        tasks: the tasks to run; None runs all. The other heads are not run.

    Returns:
        A sample with ``pred_<task>`` (C, H, W) at the image's own size, on the model's device; a
        list of them where a list was given.

    Raises:
        CorruptFileError: if a file is no image.
        InputError: if a task is unknown or an array is no image.
    """
    several = isinstance(images, (list, tuple))
    if several and not images:
        return []
    pipeline = InferencePipeline(model.cfg)
    samples = [pipeline(image) for image in (images if several else [images])]
    predicted = predict_batch(model, samples, tasks)
    return predicted if several else predicted[0]


@torch.no_grad()
def predict_batch(
    model: nn.Module, samples: Sequence[Mapping[str, Any]], tasks: Sequence[str] | None = None
) -> list[MultiTaskDataSample]:
    """Predict what a test pipeline made, in its order; each image as it is predicted alone.

    Args:
        model: of :func:`init_model`.
        samples: ``dict(inputs=..., data_samples=...)``, one an image.
        tasks: the tasks to run; None runs all.
    """
    batch = model.data_preprocessor(pseudo_collate(samples), False)
    return model(**batch, mode="predict", tasks=tasks)


def is_adapter(config_or_adapter: object) -> bool:
    """Whether an argument names an adapter file rather than a config, by its ending."""
    return isinstance(config_or_adapter, (str, Path)) and str(config_or_adapter).endswith(_ADAPTER)


def check_device(device: str | torch.device | None) -> torch.device:
    """The device of that name, or the best there is; raise InputError if there is none such."""
    try:
        found = torch.device(device if device is not None else get_device())
        torch.empty(0, device=found)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).split("\n")[0]
        raise InputError(f"device {str(device)!r} cannot be used: {reason}") from None
    return found


def _init_adapter(
    path: str | Path,
    checkpoint: str | Path | None,
    device: torch.device,
    options: dict[str, Any],
) -> nn.Module:
    """Load an adapter file, which holds its config."""
    if checkpoint is not None:
        raise InputError(f"{path} is an adapter file and takes no checkpoint, got {checkpoint}")
    pretrained = options.pop("pretrained", None)
    if options:
        raise InputError(
            f"{path} is an adapter file: of its config only `pretrained` can be set, "
            f"got {', '.join(options)}"
        )
    if not Path(path).is_file():
        raise InputError(f"{path}: no such adapter file")
    model = load_adapter(path, pretrained=pretrained, device=str(device))
    model.dataset_meta = _metainfo(model.cfg, model.dataset_meta)
    return model


def _metainfo(cfg: Config, stored: Mapping[str, Any]) -> dict[str, Any]:
    """Classes and palettes by task: the stored ones, else those of the config's data sets.

    Where data sets differ, those of the test count, then of validation, then of training.
    """
    meta: dict[str, Any] = {}
    loaders = [cfg.get(f"{name}_dataloader") or {} for name in ("train", "val", "test")]
    for entry in dicts_in(loaders):
        kind = entry.get("type")
        kind = DATASETS.get(kind) if isinstance(kind, str) else kind
        meta |= getattr(kind, "METAINFO", {})
        meta |= entry.get("metainfo") or {}
    return meta | {task: values for task, values in stored.items() if values}
