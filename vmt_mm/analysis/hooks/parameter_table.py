"""Log what is trainable."""

from __future__ import annotations

from mmengine.hooks import Hook
from mmengine.runner import Runner
from torch import nn

from vmt_mm.analysis.parameters import count_parameters
from vmt_mm.analysis.tables import render_table, table_of
from vmt_mm.registry import HOOKS
from vmt_mm.utils.modules import unwrap


@HOOKS.register_module()
class ParameterTableHook(Hook):
    """Logs a table of trainable and all parameters before training."""

    def before_train(self, runner: Runner) -> None:
        """Log the table."""
        runner.logger.info(f"parameters\n{parameter_table(unwrap(runner.model))}")


def parameter_table(model: nn.Module) -> str:
    """Table of a multi-task model's parameters: encoder, output norms, each head, sum."""
    rows = []
    for part, (trainable, total) in count_parameters(model).items():
        share = f"{100 * trainable / total:.2f} %" if total else "-"
        rows.append(dict(part=part, trainable=f"{trainable:,}", all=f"{total:,}", share=share))
    return render_table(table_of(None, rows))
