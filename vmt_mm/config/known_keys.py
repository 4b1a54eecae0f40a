"""What may stand where in a config: keys, types, and their arguments."""

from __future__ import annotations

import inspect
import re
from collections.abc import Collection
from difflib import get_close_matches
from typing import Any

from mmengine.dist import init_dist
from mmengine.registry import FUNCTIONS, Registry
from mmengine.runner import (
    EpochBasedTrainLoop,
    IterBasedTrainLoop,
    LogProcessor,
    Runner,
    TestLoop,
    ValLoop,
)
from mmengine.utils.dl_utils import set_multi_processing
from torch.distributed import init_process_group
from torch.nn.utils import clip_grad_norm_, clip_grad_value_
from torch.utils.data import DataLoader

import vmt_mm.registry as registries

#: Read by the runner from the config itself, or by this project's `load_config`.
TOP_LEVEL = {
    *inspect.signature(Runner).parameters,
    "runner_type",
    "custom_imports",
    "compile",
    "find_unused_parameters",
    "model_wrapper_cfg",
    "sync_bn",
    "activation_checkpointing",
    "efficient_conv_bn_eval",
    "total_batch_size",
    "data_root",
    "image_size",
    "augment_on_device",
    "render",
    "tasks",
    "task",
    "reference",
    "protocol",
    "pretrained",
    "allow_random_backbone",
}
#: Read by MMSegmentation before 1.0 alone -> what to use.
OF_OLDER_MMSEG = {
    "resume_from": "load_from=FILE and resume=True",
    "total_epochs": "train_cfg.max_epochs",
    "lr_config": "param_scheduler",
    "momentum_config": "param_scheduler",
    "optimizer_config": "optim_wrapper",
    "evaluation": "train_cfg.val_interval, and default_hooks.checkpoint.save_best",
    "checkpoint_config": "default_hooks.checkpoint",
    "log_config": "default_hooks.logger",
    "dist_params": "env_cfg.dist_cfg",
}
#: Read by `tools/test.py --tta`.
OF_TTA = {"tta_model", "tta_pipeline"}
#: Read by a builder before the class of the same dictionary sees it.
OF_BUILDERS = {
    "type",
    "_scope_",
    "_delete_",
    "constructor",
    "paramwise_cfg",
    "convert_to_iter_based",
    "priority",
}
_OF_LOADERS = {
    *(set(inspect.signature(DataLoader).parameters) - {"shuffle"}),  # a sampler does that
    "num_batch_per_epoch",
    "disable_subprocess_warning",
}
#: Keys that are known elsewhere -> what to use.
INSTEAD = {"shuffle": "; set sampler.shuffle"}
#: Dictionaries without a type, or with one that may miss, and what may stand in them.
UNTYPED = {
    "train_dataloader": _OF_LOADERS,
    "val_dataloader": _OF_LOADERS,
    "test_dataloader": _OF_LOADERS,
    "env_cfg": {"cudnn_benchmark", "mp_cfg", "dist_cfg", "resource_limit"},
    "env_cfg.mp_cfg": {*inspect.signature(set_multi_processing).parameters} - {"distributed"},
    "env_cfg.dist_cfg": {
        *inspect.signature(init_dist).parameters,
        *inspect.signature(init_process_group).parameters,
    },
    "train_cfg": {
        *inspect.signature(EpochBasedTrainLoop).parameters,
        *inspect.signature(IterBasedTrainLoop).parameters,
        "by_epoch",
    },
    "val_cfg": {*inspect.signature(ValLoop).parameters},
    "test_cfg": {*inspect.signature(TestLoop).parameters},
    "randomness": {"seed", "diff_rank_seed", "deterministic"},
    "log_processor": {*inspect.signature(LogProcessor).parameters, "type"},
    "optim_wrapper.clip_grad": {
        *inspect.signature(clip_grad_norm_).parameters,
        *inspect.signature(clip_grad_value_).parameters,
        "type",
    },
}
#: What a type must be, by the key that holds it (or the key above, for those with any names below).
_PLACES = {
    "model": registries.MODELS,
    "backbone": registries.MODELS,
    "head": registries.MODELS,
    "task_heads": registries.MODELS,
    "tasks": registries.TASKS,
    "peft": registries.PEFT_METHODS,
    "method": registries.PEFT_METHODS,
    "dataset": registries.DATASETS,
    "datasets": registries.DATASETS,
    "sampler": registries.DATA_SAMPLERS,
    "pipeline": registries.TRANSFORMS,
    "tta_model": registries.MODELS,
    "tta_pipeline": registries.TRANSFORMS,
    "optimizer": registries.OPTIMIZERS,
    "param_scheduler": registries.PARAM_SCHEDULERS,
    "default_hooks": registries.HOOKS,
    "custom_hooks": registries.HOOKS,
}
_WITH_NAMES_BELOW = ("task_heads", "tasks", "default_hooks")
#: How alike a name must be to be taken for the one that was meant: where any name may stand, and
#: where an unknown one is wrong anyway.
VERY_ALIKE, _ALIKE = 0.85, 0.6
REGISTRIES = [r for r in vars(registries).values() if isinstance(r, Registry)] + [FUNCTIONS]


def registries_for(path: str) -> list[Registry]:
    """The registry that a path asks for; all of them where any will do."""
    names = re.sub(r"\[\d+\]", "", path).split(".")
    above = names[-2] if names[-2:-1] and names[-2] in _WITH_NAMES_BELOW else names[-1]
    if above == "sampler" and not names[0].endswith("_dataloader"):  # of a head's pixels
        return REGISTRIES
    return [_PLACES[above]] if above in _PLACES else REGISTRIES


def names_in(registry: Registry) -> set[str]:
    """Names in a registry and in those that it asks next."""
    return set(registry.module_dict) | (names_in(registry.parent) if registry.parent else set())


def find_kinds(kind: object, where: Collection[Registry]) -> list[Any]:
    """What a config's ``type`` may mean, in these registries."""
    if not isinstance(kind, str):
        return [kind]
    found = []
    for registry in where:
        value = _find(registry, kind)
        if value is not None and value not in found:
            found.append(value)
    return found


def _find(registry: Registry | None, name: str) -> Any:
    """Look a name up without trying to import it, unless it has a scope or a module."""
    if "." in name:
        return registry.get(name)
    while registry is not None:
        registry.import_from_location()
        if name in registry.module_dict:
            return registry.module_dict[name]
        registry = registry.parent
    return None


def parameters_of(kind: Any) -> tuple[set[str], bool]:
    """Names of the arguments of a class or function, and whether it takes any others, too."""
    known: set[str] = set()
    for owner in kind.__mro__ if inspect.isclass(kind) else [kind]:
        function = vars(owner).get("__init__") if inspect.isclass(kind) else owner
        if function is None or owner is object:
            continue
        try:
            parameters = inspect.signature(function).parameters.values()
        except (TypeError, ValueError):
            return known, True
        parameters = [p for p in parameters if p.name != "self"]
        named = [p for p in parameters if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)]
        known |= {p.name for p in named}
        if not any(p.kind is p.VAR_KEYWORD for p in parameters):
            return known, False
    return known, True


def nearest(key: str, known: Collection[str]) -> str:
    """The nearest right name as the end of a message; empty where none is near."""
    near = get_close_matches(key, sorted(known), 1, _ALIKE)
    return f"; did you mean {near[0]!r}?" if near else ""
