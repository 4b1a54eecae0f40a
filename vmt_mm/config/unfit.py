"""Parts of mmseg and mmengine that do nothing, or harm, in a model of many tasks.

mmseg's parts know one segmentation map. Configs of mmseg's own models are left alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from mmseg.datasets import BaseSegDataset
from mmseg.models.decode_heads.decode_head import BaseDecodeHead

from vmt_mm.config.components import find_kinds, names_in, nearest
from vmt_mm.datasets.transforms.unfit import advice_on
from vmt_mm.models import MultiTaskSegmentor
from vmt_mm.models.heads.build import unread_keys
from vmt_mm.registry import OPTIM_WRAPPER_CONSTRUCTORS

_METRIC = (
    "reads mmseg's one segmentation map; every task brings its metric, and "
    "tasks.<name>.iou_metrics=['mIoU', 'mDice', 'mFscore'] of a Segmentation task reports these"
)
_LAYER_DECAY = (
    "knows ConvNeXt, BEiT and MAE alone; use constructor='TrainableOnlyConstructor' with "
    "paramwise_cfg=dict(custom_keys={'backbone.stages.0': dict(lr_mult=0.1), ...})"
)
#: package.class -> why it is refused, and what to use.
_CLASSES = {
    "mmseg.IoUMetric": _METRIC,
    "mmseg.CityscapesMetric": _METRIC,
    "mmseg.DepthMetric": _METRIC,
    "mmseg.SegVisualizationHook": "draws one segmentation map; use MultiTaskVisualizationHook",
    "mmseg.SegDataPreProcessor": "stacks one segmentation map; use MultiTaskDataPreprocessor",
    "mmseg.MultiImageMixDataset": "mixes images and one segmentation map; labels stay behind",
    "mmengine.ClassBalancedDataset": "asks for the classes of every image; use ConcatDataset with "
    "sampler=dict(type='SeededSampler', balance=[...])",
    "mmengine.ConcatDataset": "needs one metainfo in all members; use ConcatDataset without a "
    "scope, whose members may label different tasks",
    "mmseg.LearningRateDecayOptimizerConstructor": _LAYER_DECAY,
    "mmseg.LayerDecayOptimizerConstructor": _LAYER_DECAY,
}


def unfit_faults(
    cfg: Mapping[str, Any], entries: Sequence[tuple[str, Any, list[Any]]]
) -> Iterator[str]:
    """Yield what a model of many tasks cannot use, of ``cfg`` and its components."""
    found = [(path, node, kinds[0]) for path, node, kinds in entries if kinds]
    classes = [(path, node, kind) for path, node, kind in found if isinstance(kind, type)]
    if not any(path == "model" and issubclass(k, MultiTaskSegmentor) for path, _, k in classes):
        return
    for path, node, kind in classes:
        advice = _CLASSES.get(f"{kind.__module__.split('.')[0]}.{kind.__name__}") or advice_on(kind)
        if advice is None and issubclass(kind, BaseSegDataset):
            advice = "has one segmentation map per image; use MultiTaskDataset"
        if advice:
            yield f"{path}.type: {kind.__name__} {advice}"
        if issubclass(kind, BaseDecodeHead) and path.startswith("model."):
            yield from (f"{path}.{key}: {why}" for key, why in unread_keys(node).items())
    if cfg.get("activation_checkpointing") and "peft" in (cfg["model"].get("backbone") or {}):
        yield (  # gradients would be wrong
            "activation_checkpointing does not go with a PEFT method; set "
            "model.backbone.with_cp=True instead"
        )
    name = (cfg.get("optim_wrapper") or {}).get("constructor", "DefaultOptimWrapperConstructor")
    constructors = find_kinds(name, [OPTIM_WRAPPER_CONSTRUCTORS])
    if not constructors:
        near = nearest(name, names_in(OPTIM_WRAPPER_CONSTRUCTORS))
        yield f"optim_wrapper.constructor: no constructor is named {name!r}{near}"
    elif advice := _CLASSES.get(f"mmseg.{name}"):
        yield f"optim_wrapper.constructor: {name} {advice}"
