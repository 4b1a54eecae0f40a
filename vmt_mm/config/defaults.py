"""How top-level keys change a config: defaults of arguments, ``protocol`` and ``task``."""

import contextlib
import copy
from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import compress
from typing import Any, NamedTuple

from mmengine.config import Config

from vmt_mm.config.components import TOP_LEVEL, components
from vmt_mm.config.tree import LOADERS, dicts_in
from vmt_mm.datasets import MultiTaskDataset, ShapesMT
from vmt_mm.datasets.transforms import Pad, RandomCrop, RandomResize, RandomWarp, Resize
from vmt_mm.datasets.transforms.geometry import MEAN_COLOR
from vmt_mm.errors import InputError
from vmt_mm.evaluation import MultiTaskEvaluator
from vmt_mm.models import MultiTaskSegmentor
from vmt_mm.models.backbones import PEFTBackbone
from vmt_mm.registry import TASKS


class Default(NamedTuple):
    """Top-level ``key`` is the default of ``kind``'s ``argument``, unless it sets ``unless``."""

    key: str
    kind: type
    argument: str
    unless: tuple[str, ...] = ()


DEFAULTS = [
    Default("data_root", MultiTaskDataset, "data_root"),
    Default("render", ShapesMT, "render"),
    Default("tasks", MultiTaskSegmentor, "tasks"),
    Default("tasks", PEFTBackbone, "tasks"),  # which reads only the names
    Default("tasks", MultiTaskDataset, "tasks"),
    Default("tasks", MultiTaskEvaluator, "tasks"),
    Default("reference", MultiTaskEvaluator, "reference"),
    Default("pretrained", PEFTBackbone, "pretrained"),
    Default("allow_random_backbone", PEFTBackbone, "allow_random_backbone"),
    Default("image_size", RandomWarp, "size"),
    Default("image_size", RandomCrop, "size", ("crop_size",)),
    Default("image_size", RandomResize, "scale"),
    Default("image_size", Resize, "scale", ("scale_factor",)),
    Default("image_size", Pad, "size", ("size_divisor", "pad_to_square")),
    Default("augment_on_device", RandomWarp, "on_device"),
]
#: Protocol -> order of the test pipeline's size-changing transforms and ``LoadLabels``.
_ORDERS = dict(A=["Resize", "LoadLabels"], B=["LoadLabels", "Resize"], C=["Pad", "LoadLabels"])


def known_keys() -> set[str]:
    """Return the top-level keys that have an effect."""
    return TOP_LEVEL | {row.key for row in DEFAULTS}


def _places(cfg: Config) -> Iterator[tuple[str, Any, Default]]:
    """Yield path and config of each component, with each row of ``DEFAULTS`` that applies."""
    for path, node, kinds in components({k: cfg[k] for k in cfg if k in TOP_LEVEL}):
        kind = kinds[0] if kinds and isinstance(kinds[0], type) else object
        rows = (row for row in DEFAULTS if row.key in cfg and issubclass(kind, row.kind))
        yield from ((path, node, row) for row in rows)


def merge_parts(cfg: Config) -> None:
    """Merge per-task settings of components, such as a loss weight, with the top-level mapping."""
    for _, node, row in _places(cfg):
        own, values = node.get(row.argument), cfg[row.key]
        if isinstance(own, dict) and isinstance(values, dict) and "_delete_" not in own:
            tasks = node.get("tasks", cfg.get("tasks")) if row.key == "reference" else None
            untyped = any(isinstance(task, dict) and "type" not in task for task in own.values())
            if untyped or own.keys() < set(tasks or ()):
                merged = Config(dict(part=copy.deepcopy(values)))
                with contextlib.suppress(TypeError):  # a mapping replaces a number: keep all of it
                    merged.merge_from_dict(dict(part=own))
                    node[row.argument] = merged.part


def fill_defaults(cfg: Config, given: Collection[str] = ()) -> None:
    """Give components, in place, the top-level values that they do not set themselves.

    A component's ``tasks`` may list names of top-level tasks. Raises InputError if one of the keys
    ``given`` has no effect, or a listed name is unknown.
    """
    filled, own = set(), {}
    for path, node, row in _places(cfg):
        value, values, place = node.get(row.argument), cfg[row.key], f"{path}.{row.argument}"
        if row.argument not in node and not set(row.unless) & set(node):
            node[row.argument] = copy.deepcopy(values)
            filled.add(row.key)
        elif isinstance(value, (list, tuple)) and isinstance(values, Mapping):
            if unknown := [name for name in value if name not in values]:
                raise InputError(f"{place}: unknown {unknown}; the top level has {list(values)}")
            node[row.argument] = {name: copy.deepcopy(values[name]) for name in value}
        own.setdefault(row.key, place)
    for key in (row.key for row in DEFAULTS if row.key in given and row.key not in filled):
        advice = f"every component overrides it; set it there, as {own.get(key, 'model...')}"
        raise InputError(f"the top-level {key}={cfg[key]!r} has no effect: {advice}")


def apply_protocol(cfg: Config) -> None:
    """Change validation and test to the config's ``protocol``.

    - 'A' (default): labels keep their native size; predictions are resized to it.
    - 'B': labels are resized with the image (nearest neighbour); predictions have that size.
    - 'C': the image is padded to the size that 'A' resizes it to, instead of resized.

    Tasks get ``Task.protocol_options`` as defaults. If these change a primary metric, scores are
    not comparable to the reference scores, so Delta is not computed.
    """
    name, other_metric = cfg.get("protocol", "A"), False
    if name not in list(_ORDERS):  # of any type, hashable or not
        raise InputError(f"protocol must be one of {list(_ORDERS)}, got {name!r}")
    entries = [cfg, *dicts_in(dict(cfg.items()))] if name != "A" else []
    for loader in ("val_dataloader", "test_dataloader"):
        for entry in (e for e in dicts_in(cfg.get(loader)) if name != "A" and "pipeline" in e):
            entry["pipeline"] = _changed(entry["pipeline"], name, loader)
    for tasks in (e["tasks"] for e in entries if isinstance(e.get("tasks"), Mapping)):
        for key, task in tasks.items():
            options = getattr(TASKS.get(str(task.get("type"))), "protocol_options", {})
            for option, value in options.get(name, {}).items():
                if option == "primary_metric" and option not in task:
                    other_metric |= cfg.get("task") in (None, key)
                task.setdefault(option, value)
    for entry in entries:
        if other_metric and "reference" in entry:
            entry["reference"] = None


def _changed(pipeline: Sequence[Any], name: str, loader: str) -> list[dict[str, Any]]:
    """Turn a pipeline of protocol A into one of B or C, unless it is one already."""
    steps, kinds = [dict(step) for step in pipeline], [step.get("type") for step in pipeline]
    order = [kind for kind in kinds if kind in ("Resize", "Pad", "LoadLabels")]
    if order not in (_ORDERS["A"], _ORDERS[name]):
        rule = f"protocol {name!r} needs a test pipeline with Resize and then LoadLabels"
        raise InputError(f"{rule}; {loader} has {kinds}")
    if name == "B":
        steps[kinds.index("Resize")]["nearest_labels"] = True
        if order == _ORDERS["A"]:
            steps.insert(kinds.index("Resize"), steps.pop(kinds.index("LoadLabels")))
    elif order == _ORDERS["A"]:
        resize = steps[kinds.index("Resize")]
        size = {"size": resize["scale"]} if "scale" in resize else {}
        steps[kinds.index("Resize")] = dict(size, type="Pad", pad_val=dict(img=MEAN_COLOR))
    return steps


def reduce_to_task(cfg: Config) -> None:
    """Reduce model, data, metrics and ``save_best`` to the single task in ``task``, if set."""
    task, tasks = cfg.get("task"), cfg.get("tasks")
    if task is None:
        return
    if not isinstance(tasks, Mapping) or task not in tasks:
        raise InputError(f"task={task!r}: no such task; `tasks` has {list(tasks or ())}")
    for loader in LOADERS:
        _keep_datasets(cfg.get(loader) or {}, task, loader)
    for entry in (cfg, *dicts_in(dict(cfg.items()))):
        for key in ("tasks", "task_heads", "reference"):
            own = entry.get(key)
            if isinstance(own, (Mapping, list, tuple)) and task in own:
                entry[key] = {task: own[task]} if isinstance(own, Mapping) else [task]
            elif own and key != "tasks":
                entry[key] = None
    hook = (cfg.get("default_hooks") or {}).get("checkpoint") or {}
    best = hook.get("save_best") or ()
    named = {key.split("/")[0] for key in ([best] if isinstance(best, str) else best) if "/" in key}
    if named - {task}:
        kind = TASKS.get(str(tasks[task].get("type")))
        metric = tasks[task].get("primary_metric", getattr(kind, "primary_metric", None))
        hook.update(save_best=f"{task}/{metric}" if metric else None, rule=None)


def _keep_datasets(loader: Any, task: str, name: str) -> None:
    """Of several datasets, keep those that label the task, and their sampling weights."""
    sampler, entries = loader.get("sampler") or {}, dicts_in(loader.get("dataset"))
    for entry in (e for e in entries if isinstance(e.get("datasets"), list)):
        listed = [[d["tasks"] for d in dicts_in(m) if "tasks" in d] for m in entry["datasets"]]
        labels = [not own or any(task in tasks for tasks in own) for own in listed]
        if not any(labels):
            raise InputError(f"task={task!r}: no dataset of {name} has labels for it")
        entry["datasets"] = list(compress(entry["datasets"], labels))
        if isinstance(sampler.get("balance"), list) and entry is loader["dataset"]:
            sampler["balance"] = list(compress(sampler["balance"], labels))
