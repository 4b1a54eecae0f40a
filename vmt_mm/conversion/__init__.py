"""Raw data sets to the one layout; imports neither torch nor mmengine, for quick worker processes.

A data set is a :class:`Recipe`: which raw file holds what, and a function from files to a label.
"""

from vmt_mm.conversion.recipe import Label, LabelRule, Recipe
from vmt_mm.conversion.report import Report
from vmt_mm.conversion.run import convert

__all__ = ["Label", "LabelRule", "Recipe", "Report", "convert"]
