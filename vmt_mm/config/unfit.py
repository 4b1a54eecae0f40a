"""Parts of mmseg and mmengine that do nothing, or harm, in a model of many tasks.

mmseg's parts know one segmentation map: given to this project's model they would be ignored, crash
at the first validation, or move an image away from its labels. Each is refused before anything is
built, with what to use. Configs of mmseg's own models are left alone.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from typing import Any

from mmseg.datasets import BaseSegDataset
from mmseg.models.decode_heads.decode_head import BaseDecodeHead

from vmt_mm.config.known_keys import find_kinds, names_in, nearest, registries_for
from vmt_mm.config.tree import typed_in
from vmt_mm.datasets.transforms.unfit import advice_on
from vmt_mm.models import MultiTaskSegmentor
from vmt_mm.models.heads.build import unread_keys
from vmt_mm.registry import MODELS, OPTIM_WRAPPER_CONSTRUCTORS

_METRIC = (
    "reads mmseg's one segmentation map, which no task writes; every task brings its metric, and "
    "tasks.<name>.iou_metrics=['mIoU', 'mDice', 'mFscore'] of a Segmentation task reports what "
    "IoUMetric does"
)
_LAYER_DECAY = (
    "knows the layers of ConvNeXt, BEiT and MAE alone; use constructor='TrainableOnlyConstructor' "
    "with paramwise_cfg=dict(custom_keys={'backbone.stages.0': dict(lr_mult=0.1), ...})"
)
#: (package, class) -> why it is refused, and what to use.
_CLASSES = {
    ("mmseg", "IoUMetric"): _METRIC,
    ("mmseg", "CityscapesMetric"): _METRIC,
    ("mmseg", "DepthMetric"): _METRIC,
    ("mmseg", "SegVisualizationHook"): (
        "draws mmseg's one segmentation map, which no task writes; use MultiTaskVisualizationHook"
    ),
    ("mmseg", "SegDataPreProcessor"): (
        "stacks mmseg's one segmentation map; use MultiTaskDataPreprocessor, with mean, std, "
        "bgr_to_rgb and pad_size_divisor"
    ),
    ("mmseg", "MultiImageMixDataset"): "mixes images and one segmentation map; labels stay behind",
    ("mmengine", "ClassBalancedDataset"): (
        "asks for the classes of every image, which many tasks do not have; put the images to see "
        "more often into a list of their own (ann_file), and use ConcatDataset with "
        "sampler=dict(type='SeededSampler', balance=[...])"
    ),
    ("mmengine", "ConcatDataset"): (
        "needs one metainfo in all members; use ConcatDataset without a scope, whose members may "
        "label different tasks"
    ),
    ("mmseg", "LearningRateDecayOptimizerConstructor"): _LAYER_DECAY,
    ("mmseg", "LayerDecayOptimizerConstructor"): _LAYER_DECAY,
}
#: (package, class) -> arguments that serve mmseg's one segmentation map alone.
_KEYS = {("mmseg", "SegLocalVisualizer"): ("alpha", "classes", "palette", "dataset_name")}
#: What mmengine's default constructor reads of ``paramwise_cfg``, in mmseg's child as well.
_PARAMWISE = {
    "custom_keys",
    "bias_lr_mult",
    "bias_decay_mult",
    "norm_decay_mult",
    "flat_decay_mult",
    "dwconv_decay_mult",
    "dcn_offset_lr_mult",
    "bypass_duplicate",
    "force_default_settings",
}


def unfit_faults(cfg: Mapping[str, Any]) -> Iterator[str]:
    """What a model of many tasks cannot use, in one line each."""
    kind = (cfg.get("model") or {}).get("type")
    kind = MODELS.get(kind) if isinstance(kind, str) else kind
    if not (inspect.isclass(kind) and issubclass(kind, MultiTaskSegmentor)):
        return
    for key, value in cfg.items():
        for path, node in typed_in(value, str(key)):
            kinds = find_kinds(node["type"], registries_for(path))
            if kinds and inspect.isclass(kinds[0]):
                yield from _of_class(kinds[0], node, path)
    yield from _constructor(cfg.get("optim_wrapper") or {})


def _of_class(kind: type, node: Mapping[str, Any], path: str) -> Iterator[str]:
    """Faults of one dictionary with a type."""
    name = (kind.__module__.split(".")[0], kind.__name__)
    for key in set(_KEYS.get(name, ())) & set(node):
        yield f"{path}.{key}: nothing reads it; panels show the classes of each task's metainfo"
    advice = _CLASSES.get(name) or advice_on(kind)
    if advice is None and issubclass(kind, BaseSegDataset):
        advice = (
            "has one segmentation map an image; use MultiTaskDataset, with one folder a task below "
            "data_root"
        )
    if advice:
        yield f"{path}.type: {kind.__name__} {advice}"
    if issubclass(kind, BaseDecodeHead) and path.startswith("model."):
        yield from (f"{path}.{key}: {why}" for key, why in unread_keys(node).items())


def _constructor(wrapper: Mapping[str, Any]) -> Iterator[str]:
    """Faults of who builds the optimizer: its name, and what it reads of ``paramwise_cfg``."""
    name = wrapper.get("constructor", "DefaultOptimWrapperConstructor")
    if not isinstance(name, str):
        return
    path, kind = "optim_wrapper.constructor", OPTIM_WRAPPER_CONSTRUCTORS.get(name)
    if kind is None:
        known = names_in(OPTIM_WRAPPER_CONSTRUCTORS)
        yield f"{path}: no constructor is named {name!r}{nearest(name, known)}"
        return
    if advice := _CLASSES.get((kind.__module__.split(".")[0], kind.__name__)):
        yield f"{path}: {name} {advice}"
    elif "DefaultOptimWrapperConstructor" in name:
        for key in wrapper.get("paramwise_cfg") or ():
            if key not in _PARAMWISE:
                yield f"optim_wrapper.paramwise_cfg: {name} reads no {key!r}" + nearest(
                    key, _PARAMWISE
                )
