"""Tables for terminals and logs."""

import io
import sys
from collections.abc import Mapping, Sequence

from rich.console import Console
from rich.table import Table

from vmt_mm.evaluation.task_metric import is_of_class
from vmt_mm.tasks import Task


def table_of(title: str | None, rows: Sequence[Mapping[str, str]], left: int = 1) -> Table:
    """Make a table of rows (header -> cell); columns after the first ``left`` are numbers."""
    headers = dict.fromkeys(header for row in rows for header in row)
    table = Table(title=title)
    for number, header in enumerate(headers):
        table.add_column(header, justify="left" if number < left else "right", overflow="fold")
    for row in rows:
        table.add_row(*(row.get(header, "") for header in headers))
    return table


def render_table(table: Table, width: int = 100) -> str:
    """Render a table as plain text."""
    buffer = io.StringIO()
    Console(file=buffer, width=width).print(table)
    return buffer.getvalue()


def print_table(table: Table, width: int = 200) -> None:
    """Print a table, as wide as the terminal, or up to ``width`` characters in a pipe."""
    Console(width=None if sys.stdout.isatty() else width).print(table)


def metrics_table(metrics: Mapping[str, float], tasks: Mapping[str, Task]) -> Table:
    """Make a table of an evaluation: per task the primary and other metrics, and Delta."""
    rows = []
    better = {True: " (higher is better)", False: " (lower is better)", None: ""}
    for name, task in tasks.items():
        own = {k.split("/")[1]: v for k, v in metrics.items()
               if k.startswith(f"{name}/") and not is_of_class(k)}  # fmt: skip
        primary = task.primary_metric or "-"
        value = f"{own.pop(primary):.2f}" if primary in own else "-"
        which = primary + better[task.higher_is_better]
        others = ", ".join(f"{key} {number:.4g}" for key, number in own.items())
        rows.append({"task": name, "primary metric": which, "value": value, "others": others})
    if "delta" in metrics:
        about, value = "Delta over the reference, %", f"{metrics['delta']:+.2f}"
        rows.append({"task": "all", "primary metric": about, "value": value})
    return table_of("evaluation", rows, left=4)
