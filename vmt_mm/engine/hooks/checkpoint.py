"""Checkpoints."""

from __future__ import annotations

import mmengine.hooks
from mmengine.runner import Runner

from vmt_mm.registry import HOOKS


@HOOKS.register_module()
class CheckpointHook(mmengine.hooks.CheckpointHook):
    """mmengine's ``CheckpointHook`` that lives with a metric that is missing.

    A validation without the metric of ``save_best`` (no reference for ``delta``, or a task without
    a label) keeps the best checkpoint so far and says so, where mmengine's ends the training.
    """

    def _save_best_checkpoint(self, runner: Runner, metrics: dict) -> None:
        wanted = [key for key in self.key_indicators or () if key != "auto"]
        missing = [key for key in wanted if key not in metrics]
        if missing:
            runner.logger.warning(
                f"save_best: this validation has no {', '.join(missing)}; it has "
                f"{', '.join(sorted(metrics))}"
            )
            return
        super()._save_best_checkpoint(runner, metrics)
