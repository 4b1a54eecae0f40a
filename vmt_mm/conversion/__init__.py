"""Raw datasets to the one layout: a :class:`~vmt_mm.conversion.recipe.Recipe` each.

Imports neither torch nor mmengine, so that worker processes start quickly.
"""

from vmt_mm.conversion.run import convert

__all__ = ["convert"]
