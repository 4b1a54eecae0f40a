"""Average trainable parameters over steps, and statistics over processes."""

from typing import Any

import mmengine.hooks
from mmengine.dist import all_reduce_params
from mmengine.runner import Runner

from vmt_mm.registry import HOOKS


@HOOKS.register_module()
class EMAHook(mmengine.hooks.EMAHook):
    """mmengine's ``EMAHook`` for mostly frozen models: the averaged model shares frozen weights.

    Checkpoints store the averages as the weights, so a separate test run needs no swap.
    """

    _training = False

    def before_run(self, runner: Runner) -> None:
        """Create the averaged model, which shares the frozen parameters."""
        super().before_run(runner)
        frozen = {n: p for n, p in self.src_model.named_parameters() if not p.requires_grad}
        copies, self._frozen = dict(self.ema_model.module.named_parameters()), set(frozen)
        for name, parameter in frozen.items():
            copies[name].data = parameter.data
            del self.ema_model.avg_parameters[name]

    def before_train(self, runner: Runner) -> None:
        """Note that this is a training run, which has averages."""
        super().before_train(runner)
        self._training = True

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        """Save the averages as the weights, and also the trained parameters, not frozen ones."""
        super().before_save_checkpoint(runner, checkpoint)
        for name in self._frozen:
            checkpoint["ema_state_dict"].pop(f"module.{name}", None)

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        """Load the averages of a resumed run; a new one creates them at its first step."""
        if runner._resume:  # as in mmengine's hook
            super().after_load_checkpoint(runner, checkpoint)

    def _swap_ema_parameters(self) -> None:
        # called by mmengine's four methods around validations and tests
        if self._training:
            super()._swap_ema_parameters()


@HOOKS.register_module()
class SyncBuffersHook(mmengine.hooks.SyncBuffersHook):
    """mmengine's ``SyncBuffersHook`` without frozen modules, which rounding could change."""

    def before_val_epoch(self, runner: Runner) -> None:
        """Average, unless the end of the epoch already did."""
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
