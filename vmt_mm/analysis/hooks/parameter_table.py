"""Say at the start what trains."""

from __future__ import annotations

from mmengine.hooks import Hook
from mmengine.runner import Runner
from rich.table import Table
from torch import nn

from vmt_mm.analysis import count_parameters, render_table
from vmt_mm.registry import HOOKS
from vmt_mm.utils.modules import unwrap


@HOOKS.register_module()
class ParameterTableHook(Hook):
    """Logs a table of trainable and all parameters before training."""

    def before_train(self, runner: Runner) -> None:
        """Log the table."""
        model = unwrap(runner.model)
        runner.logger.info(f"parameters\n{parameter_table(model)}")


def parameter_table(model: nn.Module) -> str:
    """Table of a multi-task model's parameters: encoder, output norms, each head, sum."""
    counts = count_parameters(model)
    table = Table()
    table.add_column("part")
    for column in ("trainable", "all", "share"):
        table.add_column(column, justify="right")
    for part, (trainable, total) in counts.items():
        share = f"{100 * trainable / total:.2f} %" if total else "-"
        table.add_row(part, f"{trainable:,}", f"{total:,}", share)
    return render_table(table)
