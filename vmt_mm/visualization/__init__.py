"""Draw labels and predictions."""

from vmt_mm.visualization.figure import draw_histogram
from vmt_mm.visualization.panel import draw_contact_sheet, draw_overlay, draw_panel, draw_strip

__all__ = ["draw_contact_sheet", "draw_histogram", "draw_overlay", "draw_panel", "draw_strip"]
