"""Pictures of labels and predictions."""

from vmt_mm.visualization.panel import draw_panel

__all__ = ["draw_panel"]
