"""What a line of the log says of a validation."""

from __future__ import annotations

from typing import Any

import mmengine.runner

from vmt_mm.evaluation.task_metric import is_of_class
from vmt_mm.registry import LOG_PROCESSORS


@LOG_PROCESSORS.register_module()
class LogProcessor(mmengine.runner.LogProcessor):
    """mmengine's ``LogProcessor``; single classes are left to the table that their metric logs.

    They go to the visualizer's backends as all results do.
    """

    def get_log_after_epoch(
        self, runner: Any, batch_idx: int, mode: str, with_non_scalar: bool = False
    ) -> tuple[dict[str, Any], str]:
        """Results by name, and the line."""
        results, line = super().get_log_after_epoch(runner, batch_idx, mode, with_non_scalar)
        for name, value in results.items():
            if is_of_class(name.removeprefix(f"{mode}/")) and isinstance(value, float):
                line = line.replace(f"  {name}: {value:.{self.num_digits}f}", "", 1)
        return results, line
