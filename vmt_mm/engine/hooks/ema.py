"""Averages of the weights that train."""

from __future__ import annotations

from typing import Any

import mmengine.hooks
from mmengine.runner import Runner

from vmt_mm.registry import HOOKS


@HOOKS.register_module()
class EMAHook(mmengine.hooks.EMAHook):
    """mmengine's ``EMAHook``, for models of which most is frozen.

    - The averaged model shares the frozen weights: they are kept, averaged and saved once.
    - A test runs the weights of the checkpoint that it was given, which are the averages already;
      mmengine's puts a copy in their place, which another wrapper (``--tta``) leaves unloaded.

    In checkpoints ``state_dict`` holds the averages and ``ema_state_dict`` what trains, as
    mmengine's has it; a training that is resumed goes on with both.
    """

    _trains = False

    def before_run(self, runner: Runner) -> None:
        """Make the averaged model, and let it share what is frozen."""
        super().before_run(runner)
        self._frozen = {n for n, p in self.src_model.named_parameters() if not p.requires_grad}
        own = dict(self.src_model.named_parameters())
        for name, parameter in self.ema_model.module.named_parameters():
            if name in self._frozen:
                parameter.data = own[name].data
        averaged = self.ema_model.avg_parameters
        self.ema_model.avg_parameters = {k: averaged[k] for k in averaged if k not in self._frozen}

    def before_train(self, runner: Runner) -> None:
        """Note that there is something to average."""
        super().before_train(runner)
        self._trains = True

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        """Save the averages as the weights, and what trains beside; nothing frozen twice."""
        super().before_save_checkpoint(runner, checkpoint)
        state = checkpoint["ema_state_dict"]
        for name in self._frozen:
            state.pop(f"module.{name}", None)

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        """Go on with the averages of a training that is resumed.

        One that starts from a checkpoint's weights has none yet: its first step makes them.
        """
        if runner._resume:
            super().after_load_checkpoint(runner, checkpoint)

    def _swap_ema_parameters(self) -> None:
        if self._trains:
            super()._swap_ema_parameters()
