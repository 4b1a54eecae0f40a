"""Build a multi-task model and load a checkpoint into it, strictly."""

import inspect
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.logging import print_log
from mmengine.registry import Registry, init_default_scope
from torch import Tensor

from vmt_mm.checkpoints import keys
from vmt_mm.checkpoints.files import read_checkpoint
from vmt_mm.checkpoints.frozen import FrozenRecord, add_to, fingerprint, frozen_keys
from vmt_mm.errors import InputError
from vmt_mm.models.backbones.pretrained import locate
from vmt_mm.models.new_tasks import absent_tasks, start_tasks
from vmt_mm.registry import MODELS, PEFT_METHODS

#: Arguments of a backbone or method that do not change what a trained model computes.
_NOT_IDENTITY = {
    *("type", "tasks", "peft", "pretrained", "allow_random_backbone", "with_cp", "init_cfg"),
    *("drop_path_rate", "dropout"),
}


def build_model(cfg: Config, source: str, pretrained: str | None = None) -> Any:
    """Build the model of the config in ``source``; ``pretrained`` overrides the config's."""
    init_default_scope(cfg.get("default_scope") or "vmt_mm")
    try:
        if pretrained is not None:
            cfg.model.backbone.pretrained = pretrained
        model = MODELS.build(cfg.model)
    except InputError as error:
        raise InputError(f"{source}: {error}") from error
    except Exception as error:  # wrong arguments may raise anything
        reason = f"{type(error).__name__}: {error}".split("\n")[0]
        raise InputError(f"{source}: cannot build the model of its config ({reason})") from error
    if not hasattr(model, "tasks") or not hasattr(model, "backbone"):
        raise InputError(f"{source}: the model of its config is not a multi-task model")
    return model


def load_file(model: Any, cfg: Config, path: str | Path, start_new: bool = False) -> dict[str, Any]:
    """Load a checkpoint or adapter file into the model of a config; return its content.

    Missing frozen weights come from the config's ``pretrained``, or the file that it names.
    """
    content = read_checkpoint(str(path))
    load_model(model, content, str(path), describe(model, cfg.model), start_new=start_new)
    return content


def load_model(
    model: Any,
    checkpoint: Mapping[str, Any],
    source: str,
    own: Mapping[str, Any],
    when_complete: Callable[[], None] | None = None,
    start_new: bool = False,
) -> None:
    """Load a checkpoint strictly: keys, shapes and description must match, else InputError.

    Missing frozen weights are read from the pretrained file and added to ``checkpoint``, so that
    hooks see a complete one. ``own`` is :func:`describe` of the model. ``when_complete`` is called
    before the weights are loaded and may change them. ``start_new`` initialises missing new tasks.
    """
    state = _state_dict(checkpoint, source, multi_task=hasattr(model, "tasks"))
    meta = checkpoint.get("meta")
    described = (meta.get("vmt_mm") if isinstance(meta, Mapping) else None) or {}
    unseen = absent_tasks(model, state) if start_new else {}
    frozen, of_unseen = frozen_keys(model), set().union(*unseen.values())
    absent, record = frozen - state.keys(), FrozenRecord.read(meta, source)
    # either all frozen tensors are absent or none: otherwise the file is damaged
    all_absent = len(absent) == (record.tensors if record else len(frozen))
    optional = of_unseen | (absent if all_absent else set())
    faults = keys.differences(_facts(described), _facts(own, unseen)) if described and own else []
    faults = faults or keys.key_faults(
        model.state_dict(), state, lambda key: key in optional or keys.is_recomputed(key)
    )
    if faults:
        raise InputError(f"{source} does not fit the config: {keys.some(faults, '; ')}")
    keys.check_finite(model.state_dict(), state, source)
    if absent:
        restore_frozen(model, absent, record, source)
        add_to(checkpoint, model, absent)
    elif frozen:
        model.backbone.pretrained_path = None  # the checkpoint's may differ from those of the file
    if unseen:
        model.load_state_dict(state, strict=False)
        start_tasks(model, unseen)  # also resets the other tasks, which are loaded again below
        add_to(checkpoint, model, of_unseen)
        print_log(f"new task(s) with initial values: {', '.join(unseen)}", logger="current")
    if when_complete is not None:
        when_complete()
        state = _state_dict(checkpoint, source, multi_task=hasattr(model, "tasks"))
    model.load_state_dict(state, strict=False)  # every difference was checked above
    print_log(f"loaded {len(state)} tensors of {source}", logger="current")


def _state_dict(checkpoint: object, source: str, multi_task: bool) -> dict[str, Tensor]:
    """Return the weights of a checkpoint without prefixes of wrappers."""
    weights = checkpoint.get("state_dict", checkpoint) if isinstance(checkpoint, Mapping) else None
    weights = keys.without_wrappers(weights) if isinstance(weights, Mapping) else {}
    if multi_task and not any(key.startswith(keys.HEADS) for key in weights):
        problem = f"is not a checkpoint of a multi-task model: no key starts with {keys.HEADS!r}"
        raise InputError(f"{source} {problem}; set weights of a backbone as `pretrained`")
    if wrong := [key for key, value in weights.items() if not isinstance(value, Tensor)]:
        raise InputError(f"{source}: {wrong[0]} is not a tensor")
    return weights


def restore_frozen(
    model: Any, absent: Collection[str], record: FrozenRecord | None, file: str
) -> None:
    """Load the frozen backbone that the checkpoint ``file`` lacks, unless the model has it.

    Its source is the config's ``pretrained``, or the file in ``record``, whose hash must match.
    """
    backbone = model.backbone
    if record and backbone.pretrained_path and fingerprint(model, absent) == record.sha256:
        return
    problem, named = "", record.source if record else None
    for source in filter(None, (backbone.pretrained, named)):
        try:
            locate(source)
            break
        except InputError as error:
            problem = problem or str(error)
    else:
        of = f", those of {named!r}" if named else ""
        problem = problem or "set `pretrained` to their file"
        raise InputError(f"{file} has no weights of the frozen backbone{of}: {problem}")
    backbone.load_pretrained(source)  # logs the file
    if record and (found := fingerprint(model, absent)) != record.sha256:
        backbone.pretrained_path = None
        other = f"{source!r} contains a different one ({found[:12]}...)"
        one = f"the frozen backbone of {named!r} (SHA-256 {record.sha256[:12]}...)"
        raise InputError(f"{file} was trained on {one}, but {other}; set `pretrained` to {named!r}")


def describe(model: Any, model_cfg: Mapping[str, Any] | None) -> dict[str, Any]:
    """Describe backbone, PEFT method and tasks; stored in checkpoints and compared at loading."""
    if not model_cfg or not hasattr(model, "tasks") or "backbone" not in model_cfg:
        return {}
    backbone, tasks = model_cfg["backbone"], model.tasks.items()
    peft = backbone.get("peft")
    return dict(
        encoder=_call(MODELS, backbone),
        peft=_call(PEFT_METHODS, peft) if peft else dict(type="none", arguments={}),
        tasks={n: f"{type(t).__name__} with {t.out_channels} channel(s)" for n, t in tasks},
    )


def _call(registry: Registry, cfg: Mapping[str, Any]) -> dict[str, Any]:
    """Type and arguments of a config, including defaults; unchanged if of another registry."""
    kind = registry.get(cfg["type"]) if isinstance(cfg["type"], str) else cfg["type"]
    if not inspect.isclass(kind):
        return dict(cfg)
    parameters = inspect.signature(kind).parameters.items()
    arguments = {name: p.default for name, p in parameters if p.default is not p.empty} | dict(cfg)
    return dict(
        type=kind.__name__,
        arguments={
            key: _call(registry, value) if isinstance(value, Mapping) and "type" in value else value
            for key, value in arguments.items()
            if key not in _NOT_IDENTITY
        },
    )


def _facts(description: Mapping[str, Any], absent: Collection[str] = ()) -> dict[str, Any]:
    """Flatten a description, without absent tasks, to ``{"peft.method.rank": 4}``."""
    tasks = {n: kind for n, kind in description.get("tasks", {}).items() if n not in absent}
    facts: dict[str, Any] = {"tasks": sorted(tasks)}
    rest = [(f"task {n!r}", kind) for n, kind in tasks.items()]
    rest += [(part, description.get(part)) for part in ("encoder", "peft")]
    for path, value in rest:
        if isinstance(value, Mapping) and value.keys() == {"type", "arguments"}:
            facts[path] = value["type"]
            rest += [(f"{path}.{key}", child) for key, child in value["arguments"].items()]
        elif isinstance(value, Mapping) and path.endswith(".groups"):  # of tasks
            facts[path] = {g: [t for t in own if t in tasks] for g, own in value.items()}
        else:
            facts[path] = value
    return facts
