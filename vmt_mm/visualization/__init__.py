"""Pictures of labels and predictions."""

from vmt_mm.visualization.figure import draw_contact_sheet, draw_figure, draw_histogram, draw_panel
from vmt_mm.visualization.overlay import blend, draw_overlay, draw_strip

__all__ = [
    "blend",
    "draw_contact_sheet",
    "draw_figure",
    "draw_histogram",
    "draw_overlay",
    "draw_panel",
    "draw_strip",
]
