"""Average normalisation statistics over processes, those that training changes alone."""

from __future__ import annotations

from collections.abc import Iterator

import mmengine.hooks
from mmengine.dist import all_reduce_params
from mmengine.runner import Runner
from torch import Tensor, nn

from vmt_mm.registry import HOOKS
from vmt_mm.utils.modules import unwrap


@HOOKS.register_module()
class SyncBuffersHook(mmengine.hooks.SyncBuffersHook):
    """mmengine's ``SyncBuffersHook`` that leaves out what stays in eval mode.

    Frozen statistics are the same in every process, but their mean over three need not be, in its
    last bit.
    """

    def before_val_epoch(self, runner: Runner) -> None:
        """Average before a validation, unless that was done at the end of the epoch."""
        if self.distributed and not self.called_in_train:
            _average(runner)
        self.called_in_train = False

    def after_train_epoch(self, runner: Runner) -> None:
        """Average at the end of an epoch."""
        if self.distributed:
            _average(runner)
            self.called_in_train = True


def _average(runner: Runner) -> None:
    all_reduce_params(list(_changing_buffers(unwrap(runner.model))), op="mean")


def _changing_buffers(model: nn.Module) -> Iterator[Tensor]:
    """Buffers of modules in training mode."""
    for module in model.modules():
        if module.training:
            yield from module.buffers(recurse=False)
