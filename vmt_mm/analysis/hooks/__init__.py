"""Hooks that count and compare while a model trains."""

from vmt_mm.analysis.hooks.gradient_conflict import GradientConflictHook
from vmt_mm.analysis.hooks.parameter_table import ParameterTableHook

__all__ = ["GradientConflictHook", "ParameterTableHook"]
