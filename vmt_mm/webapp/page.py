"""The page's results as HTML; the opacity is a CSS variable, so that a slider needs no server."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from html import escape

import cv2
import numpy as np

from vmt_mm.tasks import Task
from vmt_mm.webapp.prediction import Prediction, encode_png

#: Longer side of a tile in pixels: larger images are shown smaller.
_MAX_SIDE = 640
_OPACITY = "--vmt-opacity"
#: Run in the browser with the slider's percentage.
SET_OPACITY = f"(p) => {{document.documentElement.style.setProperty('{_OPACITY}', p / 100)}}"

CSS = f"""
#vmt-examples .grid-wrap {{padding-top: 34px; max-height: none; overflow-y: auto}}
#vmt-examples .grid-container {{grid-template-columns: repeat(3, minmax(0, 1fr))}}
.vmt-grid {{display: grid; gap: 18px; grid-template-columns: repeat(auto-fill, minmax(200px, 1fr))}}
.vmt-tile {{margin: 0}}
.vmt-tile figcaption {{font-weight: 600; margin-bottom: 4px; overflow-wrap: anywhere}}
.vmt-stack {{position: relative; background-image: var(--vmt-image); background-size: 100% 100%;
  border-radius: 6px; overflow: hidden}}
.vmt-stack img {{display: block; width: 100%; height: 100%; opacity: var({_OPACITY}, 0.7)}}
.vmt-legend {{list-style: none; margin: 6px 0 0; padding: 0; font-size: 13px;
  display: flex; flex-wrap: wrap; gap: 2px 12px}}
.vmt-legend li {{display: flex; align-items: center; margin: 0}}
.vmt-legend span {{width: 12px; height: 12px; margin-right: 5px; border-radius: 2px;
  border: 1px solid #8888}}
.vmt-note {{padding: 12px 14px; border-radius: 6px; background: var(--background-fill-secondary)}}
.vmt-error {{padding: 12px 14px; border-radius: 6px; color: #8a1c1c; background: #fdecec;
  border: 1px solid #f0b4b4}}
"""


def note(text: str) -> str:
    """A remark."""
    return f'<div class="vmt-note">{escape(text)}</div>'


def error(text: str) -> str:
    """A message about what went wrong."""
    return f'<div class="vmt-error" role="alert">{escape(text)}</div>'


def tiles(prediction: Prediction, tasks: Mapping[str, Task], meta: Mapping) -> str:
    """The image and the prediction of each task over it, side by side, with legends.

    Args:
        prediction: what to show.
        tasks: all tasks of the model; those without a prediction are left out.
        meta: the data set's metainfo, by task.
    """
    image = _shown(prediction.image)
    height, width = image.shape[:2]
    figures = [_figure(prediction.name, "", [], (width, height))]
    for name, task in tasks.items():
        values = prediction.sample.prediction(name)
        if values is not None:
            values, of_task = values.numpy(), meta.get(name, {})
            drawn = _data(encode_png(_shown(task.draw(values, of_task))), "png")
            picture = f'<img src="{drawn}" alt="prediction of {escape(name)}">'
            legend = task.legend(values, of_task)
            figures.append(_figure(name, picture, legend, (width, height)))
    encoded = cv2.imencode(".jpg", image[..., ::-1])[1].tobytes()
    style = f"--vmt-image: url({_data(encoded, 'jpeg')})"
    return f'<div class="vmt-grid" style="{style}">{"".join(figures)}</div>'


def _figure(
    title: str,
    picture: str,
    legend: list[tuple[str, tuple[int, int, int]]],
    size: tuple[int, int],
) -> str:
    entries = "".join(
        f'<li><span style="background: rgb{tuple(color)}"></span>{escape(str(name))}</li>'
        for name, color in legend
    )
    return (
        f'<figure class="vmt-tile"><figcaption>{escape(title)}</figcaption>'
        f'<div class="vmt-stack" style="aspect-ratio: {size[0]} / {size[1]}">{picture}</div>'
        f'<ul class="vmt-legend">{entries}</ul></figure>'
    )


def _shown(image: np.ndarray) -> np.ndarray:
    """An image no larger than a tile needs."""
    scale = _MAX_SIDE / max(image.shape[:2])
    if scale >= 1:
        return image
    size = [max(1, round(side * scale)) for side in image.shape[1::-1]]
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA)


def _data(content: bytes, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"
