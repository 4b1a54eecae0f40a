"""Load a checkpoint into a multi-task model: all of it, or one message that says what differs."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Collection, Mapping
from typing import Any

from mmengine.logging import print_log
from mmengine.registry import Registry
from torch import Tensor, nn

from vmt_mm.checkpoints.frozen import FrozenRecord, add_to, frozen_keys, restore_frozen
from vmt_mm.checkpoints.keys import check_finite, key_faults
from vmt_mm.errors import InputError
from vmt_mm.models.new_tasks import absent_tasks, keys_of_tasks, start_tasks
from vmt_mm.registry import MODELS, PEFT_METHODS

#: Arguments of an encoder or a method that change how it is run or started, not what it computes.
_NOT_IDENTITY = {
    "type",
    "tasks",
    "peft",
    "pretrained",
    "allow_random_backbone",
    "with_cp",
    "drop_path_rate",
    "dropout",
    "init_cfg",
}
_HEADS = "heads."
#: Of wrappers that compile, which may be around any part of a model.
_COMPILED = re.compile(r"(^|\.)(_orig_mod\.)+")
_DISTRIBUTED = re.compile(r"^(module\.)+")


def describe(model: nn.Module, model_cfg: Mapping | None) -> dict[str, Any]:
    """What a checkpoint says of its model, so that another one can be told from it.

    Args:
        model: the model.
        model_cfg: the config's ``model``.

    Returns:
        ``encoder`` and ``peft``: type and all arguments; ``tasks``: name -> kind and
        channels. Empty for models that are no multi-task models.
    """
    if not model_cfg or not hasattr(model, "tasks") or "backbone" not in model_cfg:
        return {}
    backbone = model_cfg["backbone"]
    return dict(
        encoder=_call(MODELS, backbone),
        peft=_call(PEFT_METHODS, backbone.get("peft")),
        tasks={
            name: f"{type(task).__name__} with {task.out_channels} channel(s)"
            for name, task in model.tasks.items()
        },
    )


def _call(registry: Registry, cfg: Mapping | None) -> dict[str, Any]:
    """Type and arguments, defaults included."""
    if cfg is None:
        return dict(type="none", arguments={})
    kind = registry.get(cfg["type"]) if isinstance(cfg["type"], str) else cfg["type"]
    arguments = {
        name: parameter.default
        for name, parameter in inspect.signature(kind).parameters.items()
        if parameter.default is not inspect.Parameter.empty
    }
    arguments.update(cfg)
    arguments = {
        k: _call(registry, v) if _is_nested(registry, v) else _plain(v)
        for k, v in arguments.items()
        if k not in _NOT_IDENTITY
    }
    return dict(type=kind.__name__, arguments=arguments)


def _is_nested(registry: Registry, value: object) -> bool:
    """Whether an argument is the config of another class of the registry."""
    kind = value.get("type") if isinstance(value, Mapping) else None
    return inspect.isclass(kind) or (isinstance(kind, str) and registry.get(kind) is not None)


def _plain(value: Any) -> Any:
    """Tuples and lists are the same in configs."""
    return [_plain(x) for x in value] if isinstance(value, (list, tuple)) else value


def _is_call(value: object) -> bool:
    return isinstance(value, Mapping) and value.keys() == {"type", "arguments"}


def _text(call: Mapping[str, Any]) -> str:
    arguments = ", ".join(
        f"{k}={_text(v) if _is_call(v) else repr(v)}" for k, v in call["arguments"].items()
    )
    return f"{call['type']}({arguments})"


def _differ(theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> bool:
    """Whether two calls differ; an argument that one side does not know yet is left out."""
    shared = theirs["arguments"].keys() & ours["arguments"].keys()
    if theirs["type"] != ours["type"]:
        return True
    pairs = [(theirs["arguments"][key], ours["arguments"][key]) for key in shared]
    return any(_differ(a, b) if _is_call(a) and _is_call(b) else a != b for a, b in pairs)


def load_model(
    model: nn.Module,
    checkpoint: Mapping[str, Any],
    source: str,
    own: Mapping[str, Any],
    when_complete: Callable[[], None] | None = None,
    start_new: bool = False,
) -> None:
    """Load a checkpoint that must fit the model exactly.

    A checkpoint without the frozen encoder's weights takes them from the file that the config
    declares, see :func:`vmt_mm.checkpoints.frozen.restore_frozen`, and gets them itself. Index
    buffers, which the model computes, may be absent.

    Args:
        model: the model.
        checkpoint: what the file holds.
        source: the file, for messages.
        own: :func:`describe` of the model.
        when_complete: called once the checkpoint fits and has all weights, before they are loaded;
            may change them.
        start_new: the checkpoint may have nothing of any of the model's new tasks, which then get
            their initial values.

    Raises:
        InputError: if the encoder, its PEFT method, the tasks, a number of classes or any key
            differs; the message gives both values. Or if a tensor holds NaN or infinity.
    """
    state = _state_dict(checkpoint, source, multi_task=hasattr(model, "tasks"))
    meta = checkpoint.get("meta")
    described = (meta.get("vmt_mm") if isinstance(meta, Mapping) else None) or {}
    unseen = absent_tasks(model, state) if start_new else ()
    if described and own:
        try:
            differences = _differences(described, own, unseen)
        except (KeyError, TypeError, AttributeError) as error:
            raise InputError(
                f"{source}: damaged, its description of the model cannot be read ({error!r})"
            ) from error
    else:
        differences = _other_tasks(state, model, unseen) + _other_channels(state, model)
    frozen, of_unseen = frozen_keys(model), keys_of_tasks(model, unseen)
    absent, record = frozen - state.keys(), FrozenRecord.read(meta, source)
    wanted = record.tensors if record else len(frozen)  # all or none, if it does not say so
    optional = of_unseen | (absent if len(absent) == wanted else set())
    faults = key_faults(
        model.state_dict(), state, lambda k: k in optional or k.endswith("relative_position_index")
    )
    if differences or faults:
        raise InputError(f"{source} does not fit the config: {'; '.join(differences or faults)}")
    check_finite(model.state_dict(), state, source)
    if absent:
        restore_frozen(model, absent, record, source)
        add_to(checkpoint, model, absent)
    elif frozen:
        model.backbone.pretrained_path = None  # they may be no file's
    if unseen:
        model.load_state_dict(state, strict=False)
        start_tasks(model, unseen)  # and all others; the latter get their values again below
        add_to(checkpoint, model, of_unseen)
        print_log(f"new task(s), at their initial values: {', '.join(unseen)}", logger="current")
    if when_complete is not None:
        when_complete()
        state = _state_dict(checkpoint, source, multi_task=hasattr(model, "tasks"))
    model.load_state_dict(state, strict=False)  # every difference was judged above
    print_log(f"loaded {len(state)} tensors of {source}", logger="current")


def _state_dict(checkpoint: object, source: str, multi_task: bool) -> dict[str, Tensor]:
    """The weights of a checkpoint, without the prefixes of wrappers and other frameworks.

    A multi-task model's heads tell what stands before all of its keys (``model.heads.semseg...``).
    """
    if isinstance(checkpoint, Mapping):
        weights = checkpoint.get("state_dict", checkpoint)
        if isinstance(weights, Mapping):
            weights = {_COMPILED.sub(r"\1", str(k)): v for k, v in weights.items()}
            weights = {_DISTRIBUTED.sub("", k): v for k, v in weights.items()}
            before = {k.partition(f".{_HEADS}")[0] + "." for k in weights if f".{_HEADS}" in k}
            if multi_task and len(before) == 1 and not any(k.startswith(_HEADS) for k in weights):
                weights = {k.removeprefix(*before): v for k, v in weights.items()}
            for key, value in weights.items():
                if not isinstance(value, Tensor):
                    raise InputError(f"{source}: {key} is {type(value).__name__}, not a tensor")
            if not multi_task or any(k.startswith(_HEADS) for k in weights):
                return weights
    raise InputError(
        f"{source} is no checkpoint of a multi-task model: it holds no key that begins with "
        f"{_HEADS!r}; weights of an encoder alone belong into `pretrained`"
    )


def _differences(
    described: Mapping[str, Any], own: Mapping[str, Any], absent: Collection[str]
) -> list[str]:
    """What the checkpoint's description says otherwise than the model's without absent tasks."""
    lines = [
        f"{part}: {_text(described[part])} in the checkpoint, {_text(own[part])} in the config"
        for part in ("encoder", "peft")
        if _differ(described[part], own[part])
    ]
    theirs = described["tasks"]
    ours = {name: kind for name, kind in own["tasks"].items() if name not in absent}
    if set(theirs) != set(ours):
        lines.append(f"tasks: {sorted(theirs)} in the checkpoint, {sorted(ours)} in the config")
    return lines + [
        f"task {name!r}: {theirs[name]} in the checkpoint, {ours[name]} in the config"
        for name in ours
        if name in theirs and theirs[name] != ours[name]
    ]


def _other_tasks(
    state: Mapping[str, Tensor], model: nn.Module, absent: Collection[str]
) -> list[str]:
    """Differing tasks, by the heads' keys: for checkpoints that do not describe themselves."""
    theirs = {key.split(".")[1] for key in state if key.startswith(_HEADS)}
    ours = set(getattr(model, "tasks", ())) - set(absent)
    if not ours or theirs == ours:
        return []
    return [f"tasks: {sorted(theirs)} in the checkpoint, {sorted(ours)} in the config"]


def _other_channels(state: Mapping[str, Tensor], model: nn.Module) -> list[str]:
    """Tasks whose last layer has another number of channels."""
    own = model.state_dict()
    found: dict[str, str] = {}
    for name, task in getattr(model, "tasks", {}).items():
        for key in own:
            if not key.startswith(f"{_HEADS}{name}.") or key not in state:
                continue
            ours, theirs = tuple(own[key].shape), tuple(state[key].shape)
            if ours[:1] == (task.out_channels,) and ours != theirs and ours[1:] == theirs[1:]:
                found[name] = (
                    f"task {name!r}: {theirs[0]} output channels in the checkpoint, {ours[0]} in "
                    "the model"
                )
    return list(found.values())
