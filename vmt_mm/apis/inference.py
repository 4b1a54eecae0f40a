"""Load a trained model and predict images, like mmseg's functions of the same names."""

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

from vmt_mm.apis.pipeline import Image, InferencePipeline
from vmt_mm.config.load import load_config
from vmt_mm.config.tree import LOADERS, dataset_metainfo, dicts_in
from vmt_mm.errors import InputError
from vmt_mm.loading.adapters import load_adapter
from vmt_mm.loading.model import build_model, load_file
from vmt_mm.models.backbones.pretrained import PACKAGE_SCHEME, packaged
from vmt_mm.structures import MultiTaskDataSample

#: The trained model that ships with the package.
EMBEDDED_ADAPTER = str(packaged("vmt_mm://vmt_swin-nano_shapes"))


def init_model(
    config_or_adapter: Any,
    checkpoint: str | Path | None = None,
    device: str | torch.device | None = None,
    cfg_options: Mapping[str, Any] | None = None,
) -> Any:
    """Build a trained model in eval mode.

    >>> model = init_model("config.py", "epoch_60.pth")
    >>> inference_model(model, "image.jpg").pred_semseg.data.shape
    torch.Size([1, 480, 640])

    Args:
        config_or_adapter: a config file, a config or dictionary, or an adapter file
            (``.safetensors``, or ``vmt_mm://NAME`` of the package), which contains its config.
        checkpoint: checkpoint of this config, not for adapter files. With None, a warning is logged
            and the heads are untrained.
        device: None takes the best available device.
        cfg_options: merged into the config; for an adapter file, only ``pretrained`` and
            ``image_size``, the (width, height) of the test pipeline's ``Resize``.

    Returns the model, with its config as ``cfg`` and the metainfo per task as ``dataset_meta``.
    Raises InputError if the files do not exist or do not match.
    """
    device = check_device(device)
    if isinstance(config_or_adapter, (str, Path)):
        config_or_adapter = os.path.expanduser(config_or_adapter)
    if is_adapter(config_or_adapter):
        options = dict(cfg_options or {})
        pretrained, size = (options.pop(key, None) for key in ("pretrained", "image_size"))
        if checkpoint is not None or options:
            rule = "an adapter file needs no checkpoint and no option except `pretrained` and "
            given = checkpoint or ", ".join(options)
            raise InputError(f"{config_or_adapter}: {rule}`image_size`, got {given}")
        model = load_adapter(config_or_adapter, pretrained)
        if size is not None:
            _set_size(model.cfg, size)
    else:
        cfg = load_config(config_or_adapter, cfg_options, training=False)
        model = build_model(cfg, cfg.filename or "the config")
        model.cfg, model.dataset_meta = cfg, {}
        if checkpoint is None:
            print_log("no checkpoint given: the heads are untrained", "current", logging.WARNING)
            model.init_weights()
        else:
            meta = load_file(model, cfg, checkpoint).get("meta")
            model.dataset_meta = isinstance(meta, Mapping) and meta.get("dataset_meta") or {}
    stored = {task: names for task, names in model.dataset_meta.items() if names}
    of_datasets: dict[str, Any] = {}
    for loader in LOADERS:  # later loaders take precedence, the checkpoint over all of them
        of_datasets |= dataset_metainfo(model.cfg.get(loader))
    model.dataset_meta = of_datasets | stored
    return model.to(device).eval()


def is_adapter(source: object) -> bool:
    """Whether a config or adapter file, given by its name, is an adapter file."""
    return str(source).startswith(PACKAGE_SCHEME) or str(source).endswith(".safetensors")


def _set_size(cfg: Config, size: object) -> None:
    """Set the image size (width, height) of a config's test pipelines, in place."""
    sides = size if isinstance(size, (list, tuple)) else ()
    if len(sides) != 2 or not all(type(side) is int and side > 0 for side in sides):
        raise InputError(f"`image_size` must be (width, height) in pixels, got {size!r}")
    loader = cfg.get("test_dataloader")
    steps = [step for step in dicts_in(loader) if step.get("type") == "Resize"]
    if not steps:
        raise InputError("`image_size` has no effect: the model's test pipeline has no Resize")
    for step in steps:
        step["scale"] = tuple(sides)


def inference_model(
    model: Any, images: Image | Sequence[Image], tasks: Sequence[str] | None = None
) -> Any:
    """Predict one image, or a list of images in one batch.

    Args:
        model: a model of :func:`init_model`.
        images: path, array, or a list of these. Arrays are (H, W, 3) BGR uint8, or what the
            config's ``LoadImageFromFile`` takes: grey, 16-bit, four channels.
        tasks: names of the tasks whose heads run; None runs all.

    Returns a ``MultiTaskDataSample``, or a list of them, with ``pred_<task>`` (C, H, W) at the
    image's original size.
    """
    several = isinstance(images, (list, tuple))
    pipeline = InferencePipeline(model.cfg)
    samples = [pipeline(image) for image in (images if several else [images])]
    predicted = predict_batch(model, samples, tasks) if samples else []
    return predicted if several else predicted[0]


@torch.no_grad()
def predict_batch(
    model: Any, samples: Sequence[Mapping[str, Any]], tasks: Sequence[str] | None = None
) -> list[MultiTaskDataSample]:
    """Predict preprocessed images, in order; batching does not change a prediction."""
    batch = model.data_preprocessor(pseudo_collate(samples), False)
    return model(**batch, mode="predict", tasks=tasks)


def check_device(device: str | torch.device | None) -> torch.device:
    """Return the device, by default the best available; raise InputError if it cannot be used."""
    try:
        found = torch.device(device if device is not None else get_device())
        torch.empty(0, device=found)
        return found
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        text = f"device {str(device)!r} cannot be used: {error}"
        raise InputError(text.split("\n")[0]) from None
