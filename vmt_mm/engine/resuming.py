"""The state of a training in a checkpoint: checked, and matched by name when it is resumed."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import mmengine.hooks
from mmengine.runner import Runner

from vmt_mm.checkpoints.training_state import (
    by_position,
    match_schedules,
    named_state,
    save_schedules,
)
from vmt_mm.errors import InputError
from vmt_mm.utils.modules import unwrap


def check_resumable(content: Any, file: str, hooks: Iterable[mmengine.hooks.Hook]) -> None:
    """Raise InputError unless a checkpoint holds the state of a training with these hooks."""
    parts = ("state_dict", "optimizer", "message_hub", "meta")
    missing = [key for key in parts if not isinstance(content, dict) or key not in content]
    missing += [] if missing else [key for key in ("epoch", "iter") if key not in content["meta"]]
    if missing:
        raise InputError(
            f"{file} cannot be resumed: it holds no {', '.join(missing)}; to start from its "
            "weights, set --cfg-options load_from=FILE"
        )
    averaged = any(isinstance(hook, mmengine.hooks.EMAHook) for hook in hooks)
    if ("ema_state_dict" in content) != averaged:
        raise InputError(
            f"{file}: only the {'config' if averaged else 'checkpoint'} has averages (an "
            "EMAHook); resume with the same custom_hooks, or start a training with load_from=FILE"
        )


def keep_names(runner: Runner, checkpoint: dict[str, Any]) -> None:
    """Store the states of optimizer and schedules in a checkpoint by name."""
    if "optimizer" in checkpoint:
        checkpoint["optimizer"] = named_state(runner.optim_wrapper, unwrap(runner.model))
    if "param_schedulers" in checkpoint:
        checkpoint["param_schedulers"] = save_schedules(runner.param_schedulers)


def follow_names(runner: Runner, checkpoint: dict[str, Any]) -> None:
    """Undo :func:`keep_names`; raise ValueError if the state belongs to another training.

    The training keeps its first order of tasks, since dropout is drawn task by task.
    """
    runner.optim_wrapper = runner.build_optim_wrapper(runner.optim_wrapper)
    if runner.param_schedulers is not None:
        runner.param_schedulers = runner.build_param_scheduler(runner.param_schedulers)
    model: Any = unwrap(runner.model)
    if began := (checkpoint["meta"].get("vmt_mm") or {}).get("tasks"):
        model.tasks = {name: model.tasks[name] for name in began}
    own = named_state(runner.optim_wrapper, model)
    checkpoint["optimizer"], order = by_position(checkpoint["optimizer"], own)
    checkpoint["param_schedulers"] = match_schedules(
        checkpoint.get("param_schedulers", ()),
        runner.param_schedulers or (),
        order,
        {runner.max_epochs, runner.max_iters},
    )
