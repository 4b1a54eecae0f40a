"""What a checkpoint holds beside the weights: checked, and put into this training by name."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import mmengine.hooks
from mmengine.runner import Runner
from torch import Tensor

from vmt_mm.checkpoints.optimizer_state import OptimizerLayout, by_name, by_position
from vmt_mm.checkpoints.schedule_state import match_schedules, save_schedules
from vmt_mm.errors import InputError
from vmt_mm.utils.modules import unwrap


def check_resumable(
    checkpoint: object, filename: str, hooks: Iterable[mmengine.hooks.Hook]
) -> None:
    """Raise InputError unless a checkpoint holds a training's state beside the weights.

    Where averages are kept, the weights of a checkpoint are these; so a training with averages and
    one without cannot go on from each other.

    Args:
        checkpoint: what the file holds.
        filename: the file, for messages.
        hooks: of the training that is to go on.
    """
    parts = ("state_dict", "optimizer", "message_hub")
    missing = [key for key in parts if not isinstance(checkpoint, dict) or key not in checkpoint]
    meta = {} if missing else checkpoint.get("meta", {})
    if missing or not {"epoch", "iter"} <= set(meta):
        raise InputError(
            f"{filename} cannot be resumed: it holds no {', '.join(missing) or 'epoch and iter'}; "
            "to start from its weights set --cfg-options load_from=FILE"
        )
    there = "ema_state_dict" in checkpoint
    if there != any(isinstance(hook, mmengine.hooks.EMAHook) for hook in hooks):
        does, does_not = ("checkpoint", "config") if there else ("config", "checkpoint")
        raise InputError(
            f"{filename}: the {does} keeps averages of the weights (EMAHook), the {does_not} does "
            "not; resume with the same custom_hooks, or start from its weights by load_from=FILE"
        )


def keep_names(runner: Runner, checkpoint: dict[str, Any]) -> None:
    """Give the states of optimizer and schedules, in a checkpoint to be saved, their names."""
    if "optimizer" in checkpoint:
        layout = OptimizerLayout.of(runner.optim_wrapper, unwrap(runner.model))
        checkpoint["optimizer"] = by_name(checkpoint["optimizer"], layout)
    if "param_schedulers" in checkpoint:
        checkpoint["param_schedulers"] = save_schedules(runner.param_schedulers)


def follow_names(runner: Runner, checkpoint: dict[str, Any], weights: Mapping[str, Tensor]) -> None:
    """Undo :func:`keep_names` for a config that may have its tasks in another order.

    The training goes on in the order in which it began, since dropout is drawn task by task.

    Args:
        runner: of the training.
        checkpoint: to be resumed; changed in place.
        weights: that it holds, in their order.

    Raises:
        ValueError: if it is the state of another training; the message says what differs.
    """
    runner.optim_wrapper = runner.build_optim_wrapper(runner.optim_wrapper)
    if runner.param_schedulers is not None:
        runner.param_schedulers = runner.build_param_scheduler(runner.param_schedulers)
    model = unwrap(runner.model)
    if began := (checkpoint["meta"].get("vmt_mm") or {}).get("tasks"):
        model.tasks = {name: model.tasks[name] for name in began}
    layout = OptimizerLayout.of(runner.optim_wrapper, model)
    checkpoint["optimizer"], order = by_position(checkpoint["optimizer"], layout, weights)
    checkpoint["param_schedulers"] = match_schedules(
        checkpoint.get("param_schedulers", ()),
        runner.param_schedulers or (),
        order,
        {runner.max_epochs, runner.max_iters},
    )
