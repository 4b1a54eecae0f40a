"""Never step on a loss that is not a number."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from mmengine.hooks import Hook
from mmengine.optim import OptimWrapper
from mmengine.runner import Runner
from torch import Tensor, nn
from torch.optim import Optimizer

from vmt_mm.errors import InputError
from vmt_mm.registry import HOOKS
from vmt_mm.structures import MultiTaskDataSample
from vmt_mm.utils.modules import unwrap


@HOOKS.register_module()
class FiniteLossHook(Hook):
    """Stops the training, or skips the step, when a loss is infinite or not a number.

    The check is made between the backward pass and the optimizer's step (after the iteration where
    no step is made: gradients accumulate, or a scaler saw one overflow), and all processes decide
    alike. A skipped step leaves parameters, the optimizer's state and the running statistics of
    normalisation as they were.

    Args:
        action: 'stop' or 'skip'.
        max_skips: steps that 'skip' leaves out in one run before it stops after all.
    """

    def __init__(self, action: str = "stop", max_skips: int = 10) -> None:
        if action not in ("stop", "skip"):
            raise InputError(f"FiniteLossHook: `action` must be 'stop' or 'skip', got {action!r}")
        self.action = action
        self.max_skips = max_skips
        self.skipped = 0
        self._losses: list[tuple[dict[str, Tensor], list[str]]] = []
        self._buffers: dict[str, Tensor] = {}
        self._runner: Runner | None = None

    def before_train(self, runner: Runner) -> None:
        """Listen to the model's losses and to the optimizer's steps."""
        self._runner = runner
        model = unwrap(runner.model)
        model.register_forward_pre_hook(self._before_forward)
        model.register_forward_hook(self._after_forward, with_kwargs=True)
        for wrapper in _wrappers(runner):
            wrapper.optimizer.register_step_pre_hook(self._before_step)

    def after_train_iter(self, runner: Runner, *args: Any, **kwargs: Any) -> None:
        """Check the losses on which no optimizer has stepped."""
        for wrapper in _wrappers(runner):
            self._before_step(wrapper.optimizer)

    def _before_forward(self, model: nn.Module, inputs: tuple) -> None:
        if self.action == "skip" and model.training and not self._losses:
            self._buffers = {
                name: buffer.clone()
                for name, buffer in model.named_buffers()
                if name.rpartition(".")[2] in ("running_mean", "running_var", "num_batches_tracked")
            }

    def _after_forward(
        self, model: nn.Module, args: tuple, kwargs: dict[str, Any], output: object
    ) -> None:
        if not model.training or not isinstance(output, dict):
            return
        samples = kwargs.get("data_samples") or (args[1] if len(args) > 1 else None) or []
        losses = {k: v.detach() for k, v in output.items() if "loss" in k}
        self._losses.append((losses, [_name(sample) for sample in samples]))

    def _before_step(self, optimizer: Optimizer, *args: Any) -> None:
        losses, self._losses = self._losses, []
        values = [value.float().mean() for part, _ in losses for value in part.values()]
        if not values:
            return
        wrong = (~torch.isfinite(torch.stack(values))).any().int()
        if dist.is_initialized():
            dist.all_reduce(wrong, op=dist.ReduceOp.MAX)
        if not wrong.item():
            return
        message = self._message(losses)
        if self.action == "stop":
            raise InputError(f"{message}; the training stops before this step changes a weight")
        if self.skipped == self.max_skips:
            raise InputError(
                f"{message}; {self.skipped} steps were skipped before, max_skips={self.max_skips}"
            )
        self.skipped += 1
        self._runner.logger.warning(
            f"{message}; step skipped ({self.skipped} of at most {self.max_skips})"
        )
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                parameter.grad = None  # an optimizer leaves parameters without a gradient alone
        for name, buffer in unwrap(self._runner.model).named_buffers():
            if name in self._buffers:
                buffer.copy_(self._buffers[name])

    def _message(self, losses: list[tuple[dict[str, Tensor], list[str]]]) -> str:
        """What is wrong where: this process's view, gathered from all of them."""
        lines = []
        for part, names in losses:
            bad = {k: v.float().mean().item() for k, v in part.items() if not v.isfinite().all()}
            if bad:
                text = ", ".join(f"{key} = {value}" for key, value in bad.items())
                lines.append(f"{text} on images {', '.join(names)}")
        if dist.is_initialized():
            gathered: list[list[str]] = [[] for _ in range(dist.get_world_size())]
            dist.all_gather_object(gathered, lines)
            lines = [line for part in gathered for line in part]
        runner = self._runner
        return f"epoch {runner.epoch + 1}, iteration {runner.iter + 1}: {'; '.join(lines)}"


def _wrappers(runner: Runner) -> list[OptimWrapper]:
    """The optimizers' wrappers: one, or those of an ``OptimWrapperDict``."""
    several = getattr(runner.optim_wrapper, "optim_wrappers", None)
    return list(several.values()) if several else [runner.optim_wrapper]


def _name(sample: MultiTaskDataSample) -> str:
    return str(sample.get("img_path") or sample.get("sample_id"))
