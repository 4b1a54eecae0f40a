"""Pictures of labels and predictions."""

from vmt_mm.visualization.overlay import blend, draw_overlay, draw_strip
from vmt_mm.visualization.panel import draw_panel

__all__ = ["blend", "draw_overlay", "draw_panel", "draw_strip"]
