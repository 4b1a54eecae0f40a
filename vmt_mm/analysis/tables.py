"""Tables for terminals and logs."""

from __future__ import annotations

import io
import sys
from collections.abc import Mapping

from rich.console import Console
from rich.table import Table

from vmt_mm.evaluation.task_metric import is_of_class
from vmt_mm.tasks import Task


def render_table(table: Table, width: int = 100) -> str:
    """Render a table as plain text."""
    buffer = io.StringIO()
    Console(file=buffer, width=width).print(table)
    return buffer.getvalue()


def print_table(table: Table, width: int = 200) -> None:
    """Print a table: as wide as the terminal, or up to ``width`` characters into a pipe."""
    Console(width=None if sys.stdout.isatty() else width).print(table)


def metrics_table(metrics: Mapping[str, float], tasks: Mapping[str, Task]) -> Table:
    """Table of an evaluation: each task's primary metric, then its others, then Delta."""
    table = Table(title="evaluation")
    table.add_column("task")
    table.add_column("primary metric")
    table.add_column("value", justify="right")
    table.add_column("others")
    for name, task in tasks.items():
        primary = task.primary_metric or ""
        better = {True: "higher", False: "lower", None: "unknown which"}[task.higher_is_better]
        others = ", ".join(
            f"{key.split('/')[1]} {value:.4g}"
            for key, value in metrics.items()
            if key.startswith(f"{name}/") and key != f"{name}/{primary}" and not is_of_class(key)
        )
        value = metrics.get(f"{name}/{primary}")
        text = "-" if value is None else f"{value:.2f}"
        table.add_row(name, f"{primary} ({better} is better)" if primary else "-", text, others)
    if "delta" in metrics:
        table.add_row("all", "Delta over the reference, %", f"{metrics['delta']:+.2f}", "")
    return table
