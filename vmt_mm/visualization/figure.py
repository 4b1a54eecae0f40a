"""Draw labels and predictions as arrays (H, W, 3), RGB uint8, without a display."""

import math
from collections.abc import Iterable, Mapping, Sequence
from functools import partial

import cv2
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from vmt_mm.structures import MultiTaskDataSample
from vmt_mm.tasks import Task

_COLUMN, _TITLE, _LEGEND, _GAP = 2.6, 0.27, 0.2, 0.08  # inches
#: Resolution, most entries of a legend, most named classes in a histogram.
_DPI, _MAX_LEGEND, _MAX_NAMES = 100, 12, 60
_TITLE_HEIGHT = 22  # pixels, of a tile in a strip
_Entries = list[tuple[str, tuple[int, int, int]]]


def draw_figure(figure: Figure) -> np.ndarray:
    """Render a matplotlib figure to an array (H, W, 3), RGB uint8."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def draw_panel(
    image: np.ndarray,
    sample: MultiTaskDataSample,
    tasks: Mapping[str, Task],
    meta: Mapping,
    opacity: float = 1.0,
    title: str | None = None,
) -> np.ndarray:
    """Draw an image, its predictions (first row) and labels (second row), one task per column.

    ``meta`` is the dataset's metainfo per task; ``opacity`` of a drawing over the image is in 0..1;
    ``title`` defaults to the image's id.
    """
    shown = {}
    for kind, get in dict(prediction=sample.prediction, label=sample.label).items():
        if values := {name: x.cpu().numpy() for name in tasks if (x := get(name)) is not None}:
            shown[kind] = values
    legends = {
        name: _legend(task, [v[name] for v in shown.values() if name in v], meta.get(name, {}))
        for name, task in tasks.items()
    }
    # Compute positions here: matplotlib's layout engines double the time.
    rows = max(1, len(shown))
    lines = max((math.ceil(len(entries) / 2) for entries in legends.values()), default=0)
    width, height = _COLUMN, _COLUMN * image.shape[0] / image.shape[1]
    across, down = rows + len(tasks), _LEGEND * lines + 2 * _GAP
    size = (width + _GAP) * across + _GAP, (height + _TITLE) * rows + down
    figure = Figure(figsize=size, dpi=_DPI)

    def add(column: int, row: int, scale: int, text: str) -> Axes:
        """Add an axis at tile (column, row) that spans ``scale`` x ``scale`` tiles."""
        x, y = (width + _GAP) * column + _GAP, (height + _TITLE) * row + _TITLE
        box = (x, size[1] - y - height * scale, width * scale, height * scale)
        axis = figure.add_axes(tuple(np.divide(box, (*size, *size))))
        axis.axis("off")
        axis.set_title(text, fontsize=9, y=1, pad=4)  # fixed y: no search among ticks
        return axis

    add(0, 0, rows, str(sample.get("sample_id", "image") if title is None else title)).imshow(image)
    for column, (name, task) in enumerate(tasks.items(), start=rows):
        for row, (kind, values) in enumerate(shown.items()):
            axis = add(column, row, 1, f"{name}: {kind}")
            if name in values:
                drawn = task.draw(values[name], meta.get(name, {}))
                if task.has_lines:  # thicken lines so that downscaling keeps them
                    step = math.ceil(drawn.shape[1] / (_COLUMN * _DPI))
                    drawn = cv2.dilate(drawn, np.ones((step, step), np.uint8))
                axis.imshow(blend(image, drawn, opacity), interpolation="nearest")
            else:
                axis.imshow(np.full(image.shape, 245, np.uint8))
                place = dict(ha="center", va="center", transform=axis.transAxes)
                axis.text(0.5, 0.5, f"no {kind}", color="gray", **place)
        if shown:
            _add_legend(axis, legends[name])
    return draw_figure(figure)


def _legend(task: Task, shown: Iterable[np.ndarray], meta: Mapping) -> _Entries:
    """Return legend entries of the values, shortened to ``_MAX_LEGEND``."""
    entries = [*{k: v for values in shown for k, v in task.legend(values, meta)}.items()]
    if len(entries) <= _MAX_LEGEND:
        return entries
    rest = len(entries) - _MAX_LEGEND + 1
    return [*entries[: _MAX_LEGEND - 1], (f"... {rest} more", (255, 255, 255))]


def _add_legend(axis: Axes, entries: _Entries) -> None:
    """Add a two-column legend below a tile."""
    if entries:
        frame = dict(edgecolor="gray", linewidth=0.5)
        handles = [Patch(facecolor=np.array(c) / 255, label=name, **frame) for name, c in entries]
        place = dict(loc="upper center", bbox_to_anchor=(0.5, -0.01))
        axis.legend(handles=handles, ncols=2, fontsize=8, frameon=False, **place)


def draw_contact_sheet(
    images: Sequence[tuple[np.ndarray, MultiTaskDataSample]],
    tasks: Mapping[str, Task],
    meta: Mapping,
) -> np.ndarray:
    """Draw one row per image (H, W, 3), RGB uint8, with its labels to the right."""
    rows = [draw_panel(image, sample, tasks, meta) for image, sample in images]
    width = max(row.shape[1] for row in rows)
    margins = (((0, 0), (0, width - row.shape[1]), (0, 0)) for row in rows)
    return np.concatenate([*map(partial(np.pad, constant_values=255), rows, margins)])


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


def blend(image: np.ndarray, drawn: np.ndarray, opacity: float) -> np.ndarray:
    """Blend a drawing (h, w, 3) over an image (H, W, 3) resized to it; both uint8."""
    if opacity >= 1:
        return drawn
    if image.shape != drawn.shape:
        image = cv2.resize(image, drawn.shape[1::-1], interpolation=cv2.INTER_AREA)
    return cv2.addWeighted(drawn, opacity, image, 1 - opacity, 0)


def draw_overlay(
    image: np.ndarray, sample: MultiTaskDataSample, task: Task, meta: Mapping, opacity: float = 1.0
) -> np.ndarray:
    """Draw the prediction of one task over the image (H, W, 3), RGB uint8."""
    values = sample.prediction(task.name).cpu().numpy()
    return blend(image, task.draw(values, meta.get(task.name, {})), opacity)


def draw_strip(
    image: np.ndarray,
    sample: MultiTaskDataSample,
    tasks: Mapping[str, Task],
    meta: Mapping,
    opacity: float = 1.0,
    height: int | None = None,
) -> np.ndarray:
    """Draw the image and its predictions side by side, for frames of a video.

    Frames have equal layouts. Tiles are ``height`` pixels high (default: the image's); both output
    sides are even, as video encoders require.
    """
    predicted = {k: task for k, task in tasks.items() if sample.prediction(k) is not None}
    drawn = {k: draw_overlay(image, sample, task, meta, opacity) for k, task in predicted.items()}
    height = height or image.shape[0]
    width = max(1, round(image.shape[1] * height / image.shape[0]))
    tiles = [_tile(*tile, (width, height)) for tile in {"image": image, **drawn}.items()]
    strip = np.concatenate(tiles, axis=1)
    return np.pad(strip, [*((0, side % 2) for side in strip.shape[:2]), (0, 0)])


def _tile(title: str, image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resize an image to ``size`` (width, height) and put a title above it."""
    how = cv2.INTER_AREA if size[0] < image.shape[1] else cv2.INTER_LINEAR
    image = cv2.resize(image, size, interpolation=how)
    bar, white = np.zeros((_TITLE_HEIGHT, size[0], 3), np.uint8), (255, 255, 255)
    cv2.putText(bar, title, (4, 15), cv2.FONT_HERSHEY_SIMPLEX, 0.45, white, 1, cv2.LINE_AA)
    return np.concatenate([bar, image])
