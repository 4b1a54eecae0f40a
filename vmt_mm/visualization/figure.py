"""Draw matplotlib figures as arrays (H, W, 3), RGB uint8, without a display."""

from collections.abc import Mapping

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

_DPI, _MAX_NAMES = 100, 60  # resolution; most named classes in a histogram


def draw_figure(figure: Figure) -> np.ndarray:
    """Render a matplotlib figure to an array (H, W, 3), RGB uint8."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def draw_histogram(
    shares: Mapping[str, Mapping[str, Mapping[int, float]]], names: Mapping[str, Mapping[int, str]]
) -> np.ndarray:
    """Draw a bar chart per task of ``shares`` in 0..1 (task -> split -> value -> share)."""
    figure = Figure(figsize=(12, 3.4 * len(shares)), dpi=_DPI, layout="constrained")
    axes = figure.subplots(len(shares), squeeze=False)[:, 0]
    for axis, (task, splits) in zip(axes, shares.items(), strict=True):
        known = names.get(task, {})
        values = sorted({value for split in splits.values() for value in split} | set(known))
        places, width = np.arange(len(values)), 0.8 / max(len(splits), 1)
        for index, (name, split) in enumerate(splits.items()):
            heights = [100 * split.get(value, 0) for value in values]
            axis.bar(places + index * width, heights, width, label=name)
        rarest = min((share for split in splits.values() for share in split.values()), default=1)
        axis.set(yscale="log", ylim=(min(50 * rarest, 0.5), 100), title=task)
        axis.set_ylabel("% of labelled pixels")
        axis.yaxis.set_major_formatter("{x:g}")
        axis.yaxis.set_minor_formatter("")
        if len(values) <= _MAX_NAMES:
            labels = [known.get(value, str(value)) for value in values]
            style = dict(rotation=60, ha="right", rotation_mode="anchor", fontsize=8)
            axis.set_xticks(places + width * (len(splits) - 1) / 2, labels, **style)
        axis.legend()
    return draw_figure(figure)
