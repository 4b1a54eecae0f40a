"""Raw data sets to the one layout; imports neither torch nor mmengine, for quick worker processes.

A data set is a :class:`Recipe`: which raw file holds what, and a function from files to a label.
"""

from .recipe import Label, LabelRule, Recipe
from .report import Report
from .run import convert

__all__ = ["Label", "LabelRule", "Recipe", "Report", "convert"]
