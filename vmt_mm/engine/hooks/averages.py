"""Averages: of the trainable parameters over steps, of statistics over processes."""

from __future__ import annotations

from typing import Any

import mmengine.hooks
from mmengine.dist import all_reduce_params
from mmengine.runner import Runner

from vmt_mm.registry import HOOKS


@HOOKS.register_module()
class EMAHook(mmengine.hooks.EMAHook):
    """mmengine's ``EMAHook`` for models of which most is frozen.

    The averaged model shares the frozen weights. A test without a training runs the checkpoint's
    weights, which are the averages already.
    """

    _training = False

    def before_run(self, runner: Runner) -> None:
        """Make the averaged model, and let it share the frozen parameters."""
        super().before_run(runner)
        frozen = {n: p for n, p in self.src_model.named_parameters() if not p.requires_grad}
        copies, self._frozen = dict(self.ema_model.module.named_parameters()), set(frozen)
        for name, parameter in frozen.items():
            copies[name].data = parameter.data
            del self.ema_model.avg_parameters[name]

    def before_train(self, runner: Runner) -> None:
        """Note that there are averages."""
        super().before_train(runner)
        self._training = True

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        """Save the averages as the weights, and the trained parameters; nothing frozen twice."""
        super().before_save_checkpoint(runner, checkpoint)
        for name in self._frozen:
            checkpoint["ema_state_dict"].pop(f"module.{name}", None)

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        """Load the averages where a training is resumed; a new one makes them at its first step."""
        if runner._resume:  # mmengine's asks the same
            super().after_load_checkpoint(runner, checkpoint)

    def _swap_ema_parameters(self) -> None:
        # which mmengine's four methods around validations and tests call
        if self._training:
            super()._swap_ema_parameters()


@HOOKS.register_module()
class SyncBuffersHook(mmengine.hooks.SyncBuffersHook):
    """mmengine's without frozen modules: a mean of equal numbers may differ in the last bit."""

    def before_val_epoch(self, runner: Runner) -> None:
        """Average, unless that was done at the end of the epoch."""
        if not self.called_in_train:
            self.after_train_epoch(runner)
        self.called_in_train = False

    def after_train_epoch(self, runner: Runner) -> None:
        """Average at the end of an epoch."""
        if self.distributed:
            modules = runner.model.modules()
            changing = [b for m in modules if m.training for b in m.buffers(recurse=False)]
            all_reduce_params(changing, op="mean")
            self.called_in_train = True
