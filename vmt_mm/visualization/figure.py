"""Matplotlib figures as images."""

from __future__ import annotations

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure


def draw_figure(figure: Figure) -> np.ndarray:
    """Draw a figure to an RGB image (H, W, 3), uint8; no display is needed."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()
