"""Draw predictions and labels as pictures (H, W, 3), RGB uint8: panels, overlays, video frames.

Sizes are shares of a column's width, so that a panel looks alike at any size of the image.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from functools import cache

import cv2
import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from vmt_mm.errors import InputError
from vmt_mm.structures import MultiTaskDataSample
from vmt_mm.tasks import Task

Color = tuple[int, int, int]
_Line = list[tuple[float, str, Color | None]]  # of a legend: x, name, colour
#: Least and largest width of a column in pixels; largest height of a picture over this width.
_SMALL, _LARGE, _TALL = 320, 640, 1.5
_TITLE, _TEXT, _GAP = 0.06, 0.05, 0.02  # sizes of fonts, and gaps, over the width of a column
_KEY = (0.8, 0.3)  # largest sides of a task's key over the width of a column
_LINE, _SWATCH = 1.35, 1.4  # height of a line, and space for a colour, over the font's size
_MOST, _VIDEO = 20, 3  # most lines of a legend, and those in a video
_THIN = 220  # width of a picture over that of a line which is still visible
_WHITE, _EMPTY, _GREY, _BLACK = (255, 255, 255), (245, 245, 245), (128, 128, 128), (0, 0, 0)


def draw_panel(
    image: np.ndarray | None,
    samples: MultiTaskDataSample | Mapping[str, MultiTaskDataSample],
    tasks: Mapping[str, Task],
    meta: Mapping,
    opacity: float = 1.0,
    title: str | None = None,
    lines: int | None = None,
) -> np.ndarray:
    """Draw an image, its predictions and its labels, with a column and a legend per task.

    Pictures have the size of the image if their columns are then 320 to 640 pixels wide.

    Args:
        image: (H, W, 3) RGB uint8; None draws predictions and labels alone.
        samples: a sample, or samples of the same image by the names of models: one row per model.
        tasks: the columns, in order.
        meta: the dataset's metainfo per task.
        opacity: of a drawing over the image, in [0, 1].
        title: of the image; default: its id.
        lines: height of all lists of classes, in lines; None: as needed.

    Raises InputError if there is neither image, nor prediction, nor label.
    """
    named = samples if isinstance(samples, Mapping) else dict(prediction=samples)
    first = next(iter(named.values()))
    getters = {row: sample.prediction for row, sample in named.items()} | dict(label=first.label)
    rows = {
        row: values
        for row, get in getters.items()
        if (values := {k: x.cpu().numpy() for k in tasks if (x := get(k)) is not None})
    }
    shapes = [x.shape[1:] for values in rows.values() for x in values.values()]
    if image is None and not shapes:
        raise InputError("nothing to draw: there is no image, no prediction and no label")
    width, size = _layout(*(shapes[0] if image is None else image.shape[:2]))
    font, gap = round(_TITLE * width), round(_GAP * width)
    head, columns = (width, round(_LINE * font)), []
    if image is not None:
        caption = _write(title or str(first.get("sample_id", "image")), font, head)
        above = ((len(rows) or 1) - 1) * (size[1] + gap) // 2
        caption = np.pad(caption, ((above, 0), (0, 0), (0, 0)), constant_values=255)
        columns.append(_join([caption, _resize(image, size, cv2.INTER_CUBIC)], 0, gap))
    if rows:
        sides = [np.rot90(_write(row, font, (size[1], head[1]))) for row in rows]
        columns.append(_join([_write("", font, (head[1], head[1])), *sides], 0, gap))
    for name, task in tasks.items() if rows else ():
        known, column = meta.get(name, {}), [_write(name, font, head)]
        for row, values in rows.items():
            if name in values:
                column.append(_draw(task, values[name], known, size, image, opacity))
            else:
                none = "no label" if row == "label" else "no prediction"
                column.append(_write(none, font, size, _GREY, _EMPTY))
        found = [values[name] for values in rows.values() if name in values]
        legend = _draw_legend(task, found, known, width, lines)
        columns.append(_join([*column, legend], 0, gap))
    margins = ((gap, gap), (gap, gap), (0, 0))
    return np.pad(_join(columns, 1, gap), margins, constant_values=255)


def draw_strip(
    image: np.ndarray,
    sample: MultiTaskDataSample,
    tasks: Mapping[str, Task],
    meta: Mapping,
    opacity: float = 1.0,
    height: int | None = None,
) -> np.ndarray:
    """Draw a panel of the predictions as a frame of a video, ``height`` pixels high if given.

    Frames of equal images have equal sizes; both sides are even, as video encoders require.
    """
    predicted = {k: task for k, task in tasks.items() if sample.prediction(k) is not None}
    strip = draw_panel(image, sample, predicted, meta, opacity, "image", _VIDEO)
    if height is not None:
        width = max(1, round(strip.shape[1] * height / strip.shape[0]))
        strip = _resize(strip, (width, height), cv2.INTER_CUBIC)
    margins = [*((0, side % 2) for side in strip.shape[:2]), (0, 0)]
    return np.pad(strip, margins, constant_values=255)


def draw_contact_sheet(
    images: Iterable[tuple[np.ndarray, MultiTaskDataSample]],
    tasks: Mapping[str, Task],
    meta: Mapping,
) -> np.ndarray:
    """Draw one row per image (H, W, 3), RGB uint8, with its labels to the right."""
    return _join([draw_panel(image, sample, tasks, meta) for image, sample in images], 0, 0)


def draw_overlay(
    image: np.ndarray, sample: MultiTaskDataSample, task: Task, meta: Mapping, opacity: float = 1.0
) -> np.ndarray:
    """Draw the prediction of one task over the image (H, W, 3), RGB uint8."""
    values = sample.get(f"pred_{task.name}").data.cpu().numpy()
    return _draw(task, values, meta.get(task.name, {}), image.shape[1::-1], image, opacity)


def _layout(height: int, width: int) -> tuple[int, tuple[int, int]]:
    """Return the width of a column, and (width, height) of a picture of an image, in pixels."""
    wide = max(width, height / _TALL)
    scale = _LARGE / wide if wide > _LARGE else math.ceil(_SMALL / wide)  # whole: equal pixels
    return round(wide * scale), (max(1, round(width * scale)), max(1, round(height * scale)))


def _draw(
    task: Task,
    values: np.ndarray,
    meta: Mapping,
    size: tuple[int, int],
    image: np.ndarray | None,
    opacity: float,
) -> np.ndarray:
    """Draw values (c, h, w) at ``size`` (width, height), over the image unless it is None."""
    drawn = task.draw(values, meta)
    if task.has_lines:  # thicken lines so that they survive downscaling, also of the panel
        step = math.ceil(drawn.shape[1] / _THIN)
        drawn = cv2.dilate(drawn, np.ones((step, step), np.uint8))
    drawn = _resize(drawn, size, cv2.INTER_NEAREST)
    if image is None or opacity >= 1:
        return drawn
    return cv2.addWeighted(drawn, opacity, _resize(image, size, cv2.INTER_CUBIC), 1 - opacity, 0)


def _draw_legend(
    task: Task, found: Sequence[np.ndarray], meta: Mapping, width: int, lines: int | None
) -> np.ndarray:
    """Draw the names and the key of the colours of all values of a task that are shown."""
    size = round(_TEXT * width)
    font, line = _font(size), round(_LINE * size)
    pixels = [values.reshape(len(values), 1, -1) for values in found]
    entries = task.legend(np.concatenate(pixels, axis=-1), meta) if found else []
    names, key = _wrap(entries, width, font, lines or _MOST), task.key(meta) if found else None
    picture, texts = key or (np.zeros((0, 0, 3), np.uint8), [])
    scale = min(k * width / max(n, 1) for k, n in zip(_KEY, picture.shape[1::-1], strict=True))
    across, down = (round(scale * side) for side in picture.shape[1::-1])
    top, left = line * (len(names) + 1), (width - across) // 2
    height = max(line * (lines or len(names)), top + down + line if key else 1)
    canvas = Image.new("RGB", (width, height), _WHITE)
    pen = ImageDraw.Draw(canvas)
    for row, listed in enumerate(names):
        for x, name, color in listed:
            y = line * row + (line - size) // 2
            if color:
                pen.rectangle((x, y, x + size, y + size), color, _GREY)
            pen.text((x + _SWATCH * size, line * (row + 0.5)), name, _BLACK, font, "lm")
    if key:
        picture = _resize(picture, (across, down), cv2.INTER_LINEAR)
        canvas.paste(Image.fromarray(picture), (left, top))
    for x, y, text in texts:
        pen.text((left + x * across, top + y * down), text, _BLACK, font, "mm")
    return np.array(canvas)


def _wrap(
    entries: Sequence[tuple[str, Color]], width: int, font: ImageFont.FreeTypeFont, most: int
) -> list[_Line]:
    """Arrange a legend in lines; the last entry counts those that do not fit ``most`` lines."""
    lines: list[_Line] = []
    for count in range(min(len(entries), 8 * most), -1, -1):
        rest = [(f"and {len(entries) - count} more", None)] if count < len(entries) else []
        lines, x = [], float(width)
        for name, color in [*entries[:count], *rest]:
            name = _shorten(name, width - _SWATCH * font.size, font)
            length = _SWATCH * font.size + font.getlength(name)
            if x + length > width:
                lines.append([])
                x = 0.0
            lines[-1].append((x, name, color))
            x += length + font.size
        if len(lines) <= most:
            break
    return lines


def _write(
    text: str, font_size: int, size: tuple[int, int], color: Color = _BLACK, back: Color = _WHITE
) -> np.ndarray:
    """Draw a line of text in the middle of a picture of ``size`` (width, height)."""
    canvas, font = Image.new("RGB", size, back), _font(font_size)
    text = _shorten(text, size[0] if size[1] > font_size else 0, font)
    ImageDraw.Draw(canvas).text((size[0] / 2, size[1] / 2), text, color, font, "mm")
    return np.array(canvas)


def _shorten(text: str, width: float, font: ImageFont.FreeTypeFont) -> str:
    """Cut a text at its end until it is at most ``width`` pixels wide."""
    while text and font.getlength(text) > width:
        text = text.removesuffix("…")[:-1]
        text = f"{text}…" if text else ""
    return text


@cache
def _font(size: int) -> ImageFont.FreeTypeFont:
    """Return the font that matplotlib contains."""
    return ImageFont.truetype(f"{matplotlib.get_data_path()}/fonts/ttf/DejaVuSans.ttf", size)


def _resize(image: np.ndarray, size: tuple[int, int], enlarge: int) -> np.ndarray:
    """Resize to ``size`` (width, height), by areas unless both sides grow."""
    if image.shape[1::-1] == size:
        return image
    how = enlarge if np.all(np.less(image.shape[1::-1], size)) else cv2.INTER_AREA
    return cv2.resize(np.ascontiguousarray(image), size, interpolation=how)


def _join(pictures: Sequence[np.ndarray], axis: int, gap: int) -> np.ndarray:
    """Concatenate pictures with white gaps, centred in a column and aligned at the top of a row."""
    most, padded = max(picture.shape[1 - axis] for picture in pictures), []
    for index, picture in enumerate(pictures):
        before, space = (gap * (index > 0), 0), most - picture.shape[1 - axis]
        margins = ((0, space), before) if axis else (before, (space // 2, space - space // 2))
        padded.append(np.pad(picture, (*margins, (0, 0)), constant_values=255))
    return np.concatenate(padded, axis)
