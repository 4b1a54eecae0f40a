"""Refuse unknown config keys, which mmengine silently accepts."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from mmengine import runner
from mmengine.dist import init_dist
from mmengine.utils.dl_utils import set_multi_processing
from mmseg.datasets import BaseSegDataset
from mmseg.models.decode_heads.decode_head import BaseDecodeHead
from torch.nn.utils import clip_grad_norm_, clip_grad_value_
from torch.utils.data import DataLoader

from vmt_mm.checkpoints.renamed import UPDATE, with_new_names
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
from vmt_mm.weighting import GradientAggregation

#: A name of the user's choice this similar to a known one is a typo.
_SIMILAR = 0.85
#: Keys that the builder reads; the class does not see them.
_OF_BUILDERS = {"type", "_scope_", "constructor", "paramwise_cfg", "priority", "by_epoch"}
_OF_BUILDERS |= {"convert_to_iter_based", "num_batch_per_epoch"}
#: Top-level keys of MMSegmentation before 1.0.
_OLD = {"resume_from", "total_epochs", "lr_config", "momentum_config", "optimizer_config"}
_OLD |= {"evaluation", "checkpoint_config", "log_config", "dist_params"}
#: Entries that need no ``type`` -> the classes or functions that take their arguments.
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
_METRIC = "the task's own metric, such as tasks.<name>.iou_metrics=['mIoU', 'mDice', 'mFscore']"
_FACTORS = "TrainableOnlyConstructor with paramwise_cfg=dict(custom_keys={PART: dict(lr_mult=0.1)})"
#: package.class that assumes a single segmentation map, or other layers -> what to use instead.
_INSTEAD = {
    "mmseg.IoUMetric": _METRIC,
    "mmseg.CityscapesMetric": _METRIC,
    "mmseg.DepthMetric": _METRIC,
    "mmseg.LearningRateDecayOptimizerConstructor": _FACTORS,
    "mmseg.LayerDecayOptimizerConstructor": _FACTORS,
    "mmseg.SegVisualizationHook": "MultiTaskVisualizationHook",
    "mmseg.SegDataPreProcessor": "MultiTaskDataPreprocessor",
    "mmengine.ClassBalancedDataset": "sampler=dict(type='SeededSampler', balance=[...])",
    "mmengine.ConcatDataset": "ConcatDataset without a scope",
}


def check_keys(cfg: Any, options: Collection[str] = ()) -> None:
    """Raise InputError for unknown keys and types in a config, with the nearest known names.

    ``options`` are the top-level keys set on the command line; an unknown one is an error. In a
    config file it may be a variable, and is an error only if it resembles a known key.
    """
    known = known_keys()
    read = {key: value for key, value in cfg.items() if key in known}
    untyped = [(p, node) for p, node in walk(read) if p in _UNTYPED and "type" not in node]
    entries = [*((p, node, _UNTYPED[p]) for p, node in untyped), *components(read)]
    if name := (cfg.get("optim_wrapper") or {}).get("constructor"):
        kinds = find_kinds(name, [OPTIM_WRAPPER_CONSTRUCTORS])
        entries.append(("optim_wrapper.constructor", dict(type=name), kinds))
    faults = [*_names(cfg, known, options), *_unfit(cfg, entries)]
    for entry in entries:
        faults.extend(_arguments(*entry))
    if faults and with_new_names(read) != read:
        faults.append(f"some names come from an earlier version; run {UPDATE} CONFIG OUTPUT")
    if faults:
        raise InputError("\nerror: ".join(dict.fromkeys(faults)))


def _names(cfg: Any, known: Collection[str], options: Collection[str]) -> Iterator[str]:
    """Yield unknown names at the top level, in ``default_hooks`` and in ``env_cfg``."""
    for key in (key for key in cfg if key not in known):
        near = "" if key == "test_pipeline" else nearest(key, known, _SIMILAR)
        near = "; it comes from MMSegmentation before 1.0" if key in _OLD else near
        if key in options:
            yield f"option {key!r} has no effect{nearest(key, {*known, *cfg} - {key})}"
        elif near:
            yield f"the config's top-level {key!r} has no effect{near}"
    hooks, env = cfg.get("default_hooks") or {}, cfg.get("env_cfg") or {}
    known = {name for name, hook in hooks.items() if hook is None or "type" in hook}
    for name in (name for name in hooks if name not in known):
        yield f"default_hooks.{name} has no `type`{nearest(name, known)}"
    known = {"cudnn_benchmark", "mp_cfg", "dist_cfg", "resource_limit"}
    yield from (f"env_cfg: unknown key {n!r}{nearest(n, known)}" for n in env if n not in known)


def _arguments(path: str, node: Mapping[str, Any], kinds: list[Any]) -> Iterator[str]:
    """Yield errors in a component: an unknown type, or unknown arguments."""
    if not kinds:
        where = registries_for(path)
        what, name = where[0].name if len(where) == 1 else "class", str(node["type"])
        yield f"{path}.type: no {what} is named {name!r}{nearest(name, names_in(*where))}"
    faults: list[list[str]] = []
    for kind in kinds:
        (known, anything), unread = parameters_of(kind), getattr(kind, "unread", {})
        faults.append([])
        read = {*known, *_OF_BUILDERS, *getattr(kind, "of_builder", ())}
        for key in (k for k in node if k in unread or k not in read):
            hint = nearest(key, known, _SIMILAR if anything else 0.6)
            hint = f"; {unread[key]}" if key in unread else hint
            if hint or not anything:
                hint = hint or " (_delete_=True drops the base file's settings of another type)"
                faults[-1].append(f"{path}.{key}: {kind.__name__}: unknown argument {key!r}{hint}")
    yield from min(faults, key=len, default=[])


def _unfit(cfg: Mapping[str, Any], entries: Sequence[tuple[str, Any, list[Any]]]) -> Iterator[str]:
    """Yield components that do not work in a multi-task model; other models are not checked."""
    found = [(path, node, kinds[0]) for path, node, kinds in entries if kinds]
    classes = [(path, node, kind) for path, node, kind in found if isinstance(kind, type)]
    if not any(path == "model" and issubclass(k, MultiTaskSegmentor) for path, _, k in classes):
        return
    for path, node, kind in classes:
        default = "MultiTaskDataset" if issubclass(kind, BaseSegDataset) else None
        use = _INSTEAD.get(f"{kind.__module__.split('.')[0]}.{kind.__name__}", default)
        if advice := f"does not work in a multi-task model; use {use}" if use else advice_on(kind):
            yield f"{path}.type: {kind.__name__} {advice}"
        if issubclass(kind, BaseDecodeHead) and path.startswith("model."):
            yield from (f"{path}.{key}: {why}" for key, why in unread_keys(node).items())
    if cfg.get("activation_checkpointing") and "peft" in (cfg["model"].get("backbone") or {}):
        # the gradients would be wrong
        yield "activation_checkpointing: with a PEFT method, set model.backbone.with_cp instead"
    if cfg.get("compile") and any(kind is GradientAggregation for _, _, kind in classes):
        yield "compile: GradientAggregation does not work in a compiled model"
