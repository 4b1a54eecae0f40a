"""Convert raw datasets to the folder layout, each by a :class:`~vmt_mm.conversion.recipe.Recipe`.

Imports neither torch nor mmengine, so that worker processes start quickly.
"""

from vmt_mm.conversion.run import convert

__all__ = ["convert"]
