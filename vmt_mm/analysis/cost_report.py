"""Costs as a table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from rich.table import Table

from vmt_mm.analysis.cost import Cost
from vmt_mm.analysis.stock import OURS


def cost_table(costs: Sequence[Cost], rate: float) -> Table:
    """Table of costs, one row a config, number of tasks and variant.

    Args:
        costs: the rows.
        rate: operations a second that the machine reaches in matrix products.
    """
    reference = any(cost.case.setting.variant != OURS for cost in costs)
    memory = any(cost.peak_mem_bytes is not None for cost in costs)
    several_sizes = len({images_of(cost) for cost in costs}) > 1
    table = Table(title=title_of(costs))
    table.add_column("config", overflow="fold")
    for shown, column in ((reference, "variant"), (True, "passes"), (several_sizes, "images")):
        if shown:
            table.add_column(column)
    numbers = ["tasks", "median, ms", "min, ms", "ratio to 1 task", "images/s", "GFLOP",
               "of matmul rate"]  # fmt: skip
    if memory:
        numbers.append("peak MB")
    if reference:
        numbers.append("time to ours")
    for column in numbers:
        table.add_column(column, justify="right")
    for index, cost in enumerate(costs):
        case = cost.case
        last = index + 1 == len(costs) or costs[index + 1].case.config != case.config
        table.add_row(
            Path(case.config).stem,
            *([case.setting.variant] if reference else []),
            case.passes,
            *([images_of(cost)] if several_sizes else []),
            str(case.setting.tasks),
            f"{1e3 * cost.median_s:.1f}",
            f"{1e3 * cost.min_s:.1f}",
            "-" if cost.ratio is None else f"{cost.ratio:.2f}",
            f"{cost.images_per_s:.2f}",
            f"{cost.gflop:.1f}",
            f"{1e9 * cost.gflop / cost.median_s / rate:.0%}",
            *([f"{cost.peak_mem_bytes / 1e6:.0f}"] if memory else []),
            *([f"{cost.median_s / _ours(cost, costs).median_s:.2f}"] if reference else []),
            end_section=last,
        )
    return table


def _ours(cost: Cost, costs: Sequence[Cost]) -> Cost:
    """What a variant's cost compares with."""
    setting = replace(cost.case.setting, variant=OURS)
    return next(c for c in costs if (c.case.config, c.case.setting) == (cost.case.config, setting))


def title_of(costs: Sequence[Cost]) -> str:
    """What was timed, and on what."""
    record = costs[0].record()
    images = sorted({images_of(cost) for cost in costs})
    threads = f", {record['threads']} thread(s)" if record["device"] == "cpu" else ""
    return f"{record['mode']}: {' and '.join(images)}, {record['device']}{threads}"


def images_of(cost: Cost) -> str:
    """How many images of which size."""
    height, width = cost.case.setting.size
    return f"{cost.case.setting.batch} image(s) of {height} x {width}"
