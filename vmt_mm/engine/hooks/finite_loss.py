"""Never step on a loss that is not a number."""

from __future__ import annotations

from typing import Any

import torch
from mmengine.dist import all_gather_object, all_reduce
from mmengine.hooks import Hook
from mmengine.optim import OptimWrapper
from mmengine.runner import Runner
from torch import Tensor, nn
from torch.optim import Optimizer

from vmt_mm.errors import InputError
from vmt_mm.registry import HOOKS
from vmt_mm.utils.modules import unwrap

#: Buffers that a forward pass changes.
_STATISTICS = ("running_mean", "running_var", "num_batches_tracked")


@HOOKS.register_module()
class FiniteLossHook(Hook):
    """Stops the training, or skips the step, when a loss is infinite or not a number.

    The check is made between the backward pass and the optimizer's step (after the iteration where
    no step is made), and all processes decide alike. A skipped step leaves parameters, the
    optimizer's state and running statistics as they were.

    Args:
        on_error: 'raise' or 'skip'.
        max_skips: steps that 'skip' leaves out in one run before it raises, too.
    """

    def __init__(self, on_error: str = "raise", max_skips: int = 10) -> None:
        if on_error not in ("raise", "skip"):
            raise InputError(f"FiniteLossHook: on_error must be 'raise' or 'skip', {on_error!r}")
        self.on_error, self.max_skips, self.skipped = on_error, max_skips, 0
        self._losses: dict[str, Tensor] = {}
        self._images: list[str] = []
        self._statistics: dict[str, Tensor] = {}

    def before_train(self, runner: Runner) -> None:
        """Listen to the model's losses and to the optimizer's steps."""
        self._runner = runner
        unwrap(runner.model).register_forward_hook(self._note_losses)
        for wrapper in _wrappers(runner):
            wrapper.optimizer.register_step_pre_hook(self._check)

    def before_train_iter(self, runner: Runner, *_: Any, data_batch: Any = None, **__: Any) -> None:
        """Note the images' names, and the statistics that a skipped step gets back."""
        samples = (data_batch or {}).get("data_samples", ())
        self._images = [str(s.get("img_path") or s.get("sample_id")) for s in samples]
        if self.on_error == "skip":
            buffers = unwrap(runner.model).named_buffers()
            self._statistics = {k: b.clone() for k, b in buffers if k.endswith(_STATISTICS)}

    def after_train_iter(self, runner: Runner, *_: Any, **__: Any) -> None:
        """Check the losses of an iteration in which no optimizer made a step."""
        for wrapper in _wrappers(runner):
            self._check(wrapper.optimizer)

    def _note_losses(self, model: nn.Module, inputs: tuple, output: object) -> None:
        if model.training and isinstance(output, dict):
            losses = {k: v.detach().float().mean() for k, v in output.items() if "loss" in k}
            self._losses.update(losses)

    def _check(self, optimizer: Optimizer, *_: Any) -> None:
        losses, self._losses = self._losses, {}
        if not losses:
            return
        wrong = (~torch.isfinite(torch.stack([*losses.values()]))).any().int()
        all_reduce(wrong, "max")
        if not wrong.item():
            return
        message = self._message(losses)
        if self.on_error == "raise":
            raise InputError(f"{message}; the training stops before this step changes a weight")
        if self.skipped == self.max_skips:
            raise InputError(
                f"{message}; {self.skipped} steps were skipped before, max_skips={self.max_skips}"
            )
        self.skipped += 1
        self._runner.logger.warning(
            f"{message}; step skipped ({self.skipped} of at most {self.max_skips})"
        )
        optimizer.zero_grad(set_to_none=True)  # without a gradient no parameter changes
        unwrap(self._runner.model).load_state_dict(self._statistics, strict=False)

    def _message(self, losses: dict[str, Tensor]) -> str:
        """Which losses are wrong, and on which images, in any process."""
        bad = [f"{key} = {value}" for key, value in losses.items() if not value.isfinite()]
        line = f"{', '.join(bad)} on images {', '.join(self._images)}"
        lines = [part for part in all_gather_object(bad and line) if part]
        place = f"epoch {self._runner.epoch + 1}, iteration {self._runner.iter + 1}"
        return f"{place}: {'; '.join(lines)}"


def _wrappers(runner: Runner) -> list[OptimWrapper]:
    """The optimizers' wrappers: one, or those of an ``OptimWrapperDict``."""
    several = getattr(runner.optim_wrapper, "optim_wrappers", None)
    return list(several.values()) if several else [runner.optim_wrapper]
