"""Counting and tables."""

from vmt_mm.analysis.parameters import count_parameters
from vmt_mm.analysis.tables import metrics_table, render_table

__all__ = ["count_parameters", "metrics_table", "render_table"]
