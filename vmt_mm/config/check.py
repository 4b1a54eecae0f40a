"""Refuse config keys that nothing reads, before anything is built.

mmengine accepts any key: a misspelt one would silently leave the default in force.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from mmengine import runner
from mmengine.dist import init_dist
from mmengine.utils.dl_utils import set_multi_processing
from mmseg.datasets import BaseSegDataset
from mmseg.models.decode_heads.decode_head import BaseDecodeHead
from torch.nn.utils import clip_grad_norm_, clip_grad_value_
from torch.utils.data import DataLoader

from vmt_mm.config.components import (
    components,
    find_kinds,
    names_in,
    nearest,
    parameters_of,
    registries_for,
)
from vmt_mm.config.defaults import known_keys
from vmt_mm.config.tree import LOADERS, walk
from vmt_mm.datasets.transforms.unfit import advice_on
from vmt_mm.errors import InputError
from vmt_mm.models import MultiTaskSegmentor
from vmt_mm.models.heads.build import unread_keys
from vmt_mm.registry import OPTIM_WRAPPER_CONSTRUCTORS

#: How similar a free name must be to a known one to be taken for a slip.
_SIMILAR = 0.85
#: Read by a builder before the class of the same entry sees it.
_OF_BUILDERS = {"type", "_scope_", "constructor", "paramwise_cfg", "priority", "by_epoch"}
_OF_BUILDERS |= {"convert_to_iter_based", "num_batch_per_epoch"}
#: Of MMSegmentation before 1.0.
_OLD = {"resume_from", "total_epochs", "lr_config", "momentum_config", "optimizer_config"}
_OLD |= {"evaluation", "checkpoint_config", "log_config", "dist_params"}
#: Entries that need no type -> what takes their arguments.
_UNTYPED = {
    **dict.fromkeys(LOADERS, [DataLoader]),
    "env_cfg.mp_cfg": [set_multi_processing],
    "env_cfg.dist_cfg": [init_dist],
    "train_cfg": [runner.EpochBasedTrainLoop, runner.IterBasedTrainLoop],
    "val_cfg": [runner.ValLoop],
    "test_cfg": [runner.TestLoop],
    "randomness": [runner.Runner.set_randomness],
    "log_processor": [runner.LogProcessor],
    "optim_wrapper.clip_grad": [clip_grad_norm_, clip_grad_value_],
}
#: package.class -> why a model of many tasks cannot use it, and what to use.
_CLASSES = {
    **dict.fromkeys(
        ("mmseg.IoUMetric", "mmseg.CityscapesMetric", "mmseg.DepthMetric"),
        "reads mmseg's one segmentation map; every task brings its metric, a Segmentation task "
        "also tasks.<name>.iou_metrics=['mIoU', 'mDice', 'mFscore']",
    ),
    **dict.fromkeys(
        (f"mmseg.{n}OptimizerConstructor" for n in ("LearningRateDecay", "LayerDecay")),
        "knows ConvNeXt, BEiT and MAE alone; use constructor='TrainableOnlyConstructor' with "
        "paramwise_cfg=dict(custom_keys={'backbone.stages.0': dict(lr_mult=0.1), ...})",
    ),
    "mmseg.SegVisualizationHook": "draws one segmentation map; use MultiTaskVisualizationHook",
    "mmseg.SegDataPreProcessor": "stacks one segmentation map; use MultiTaskDataPreprocessor",
    "mmengine.ClassBalancedDataset": "asks for the classes of every image; use ConcatDataset with "
    "sampler=dict(type='SeededSampler', balance=[...])",
    "mmengine.ConcatDataset": "needs one metainfo in all members; use ConcatDataset without a "
    "scope, whose members may label different tasks",
}


def check_keys(cfg: Any, options: Collection[str] = ()) -> None:
    """Raise InputError for keys and types of a config that nothing knows, with the nearest ones.

    In a file, a top-level variable may have any name that is not nearly a known one; not so in
    ``options``, the top-level keys that options brought in.
    """
    known = known_keys()
    read = {key: value for key, value in cfg.items() if key in known}
    untyped = [(p, node) for p, node in walk(read) if p in _UNTYPED and "type" not in node]
    entries = [*((p, node, _UNTYPED[p]) for p, node in untyped), *components(read)]
    faults = [*_names(cfg, known, options), *_unfit(cfg, entries)]
    for entry in entries:
        faults.extend(_arguments(*entry))
    if faults:
        raise InputError("\nerror: ".join(dict.fromkeys(faults)))


def _names(cfg: Any, known: Collection[str], options: Collection[str]) -> Iterator[str]:
    """Yield names of the top level, of hooks and of the environment that nothing reads."""
    for key in (key for key in cfg if key not in known):
        near = "" if key == "test_pipeline" else nearest(key, known, _SIMILAR)
        if key in options:
            yield f"option {key!r} reaches nothing{nearest(key, {*known, *cfg} - {key})}"
        elif key in _OLD:
            yield f"{key!r} is of MMSegmentation before 1.0, and reaches nothing"
        elif near:
            why = "a variable of your own needs a name less alike"
            yield f"the config's top-level {key!r} reaches nothing{near} ({why})"
    hooks, env = cfg.get("default_hooks") or {}, cfg.get("env_cfg") or {}
    known = {name for name, hook in hooks.items() if hook is None or "type" in hook}
    for name in (name for name in hooks if name not in known):
        yield f"default_hooks.{name} has no `type`{nearest(name, known)}"
    known = {"cudnn_benchmark", "mp_cfg", "dist_cfg", "resource_limit"}
    yield from (f"env_cfg takes no {n!r}{nearest(n, known)}" for n in env if n not in known)


def _arguments(path: str, node: Mapping[str, Any], kinds: list[Any]) -> Iterator[str]:
    """Yield faults of a component: no class of its type takes these arguments."""
    if not kinds:
        where = registries_for(path)
        what, name = where[0].name if len(where) == 1 else "class", str(node["type"])
        yield f"{path}.type: no {what} is named {name!r}{nearest(name, names_in(*where))}"
    faults: list[list[str]] = []
    for kind in kinds:
        (known, anything), unread = parameters_of(kind), getattr(kind, "unread", {})
        unread = {"shuffle": "set sampler.shuffle"} if kind is DataLoader else unread
        faults.append([])
        for key in node:
            hint = nearest(key, known, _SIMILAR if anything else 0.6)
            hint = f"; {unread[key]}" if key in unread else hint
            if key in unread or (key not in {*known, *_OF_BUILDERS} and (hint or not anything)):
                hint = hint or " (a base file's settings of another type go by _delete_=True)"
                faults[-1].append(f"{path}.{key}: {kind.__name__} takes no {key!r}{hint}")
    yield from min(faults, key=len, default=[])


def _unfit(cfg: Mapping[str, Any], entries: Sequence[tuple[str, Any, list[Any]]]) -> Iterator[str]:
    """Yield parts that do nothing, or harm, in a model of many tasks; mmseg's models may stay."""
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
