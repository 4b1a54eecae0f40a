"""Panels of an image, its labels and its predictions."""

import numpy as np
import pytest
import torch
from matplotlib.axes import Axes

from vmt_mm.structures import MultiTaskDataSample
from vmt_mm.tasks import build_tasks
from vmt_mm.visualization import draw_panel

_TASKS = dict(
    semseg=dict(type="Segmentation", num_classes=3),
    saliency=dict(type="Saliency"),
    normals=dict(type="Normals"),
    edge=dict(type="Edge"),
    depth=dict(type="Depth"),
)
_META = dict(
    semseg=dict(classes=["floor", "chair", "lamp"], palette=[(9, 9, 9), (250, 10, 200), (0, 99, 0)])
)
_MAGENTA = (250, 10, 200)


def _values(seed: int, size: tuple[int, int], names: tuple[str, ...]) -> dict[str, torch.Tensor]:
    rng = np.random.default_rng(seed)
    classes = np.ones((1, *size), np.uint8)
    classes[:, : size[0] // 3] = 0
    classes[:, -1] = 255
    values = dict(
        semseg=classes,
        saliency=rng.random((1, *size), np.float32),
        normals=rng.normal(size=(3, *size)).astype(np.float32),
        edge=rng.integers(0, 2, (1, *size)).astype(np.uint8),
        depth=10 * rng.random((1, *size), np.float32),
    )
    values["normals"][:, 0] = 0
    values["depth"][:, 0] = 0
    return {name: torch.from_numpy(values[name]) for name in names}


def _panel(
    labels: tuple[str, ...] = (),
    predictions: tuple[str, ...] = (),
    size: tuple[int, int] = (24, 32),
    meta: dict | None = None,
) -> np.ndarray:
    sample = MultiTaskDataSample(metainfo=dict(sample_id="0001"))
    for name, value in _values(0, size, labels).items():
        sample.set_label(name, value)
    for name, value in _values(1, size, predictions).items():
        sample.set_prediction(name, value)
    image = np.full((*size, 3), (10, 200, 30), np.uint8)
    panel = draw_panel(image, sample, build_tasks(_TASKS), _META if meta is None else meta)
    assert panel.ndim == 3
    assert panel.shape[2] == 3
    assert panel.dtype == np.uint8
    return panel


def _count(panel: np.ndarray, color: tuple[int, int, int]) -> int:
    return int((panel == color).all(axis=-1).sum())


_ALL = tuple(_TASKS)


@pytest.fixture(scope="module")
def two() -> np.ndarray:
    """A panel of two rows."""
    return _panel(_ALL, _ALL)


@pytest.mark.parametrize("size", [(24, 32), (32, 24), (16, 48)])
def test_labels_and_predictions(size: tuple[int, int]) -> None:
    both = _panel(_ALL, _ALL, size)
    height, width = both.shape[:2]
    # Two rows of six readable tiles.
    assert 900 < width < 4000
    assert 2 * 0.5 * width / 6 * size[0] / size[1] < height < 3000
    # The image and class 1, in the palette's colour, fill a large part of their tiles.
    tile = (0.7 * width / 6) ** 2 * size[0] / size[1]
    assert _count(both, (10, 200, 30)) > 0.8 * tile
    assert _count(both, _MAGENTA) > 2 * 0.5 * 0.8 * tile


@pytest.mark.parametrize(
    ("labels", "predictions"), [((), _ALL), (_ALL, ())], ids=["predictions", "labels"]
)
def test_one_row(two: np.ndarray, labels: tuple[str, ...], predictions: tuple[str, ...]) -> None:
    one = _panel(labels, predictions)
    assert one.shape[0] < two.shape[0]
    assert 0 < _count(one, _MAGENTA) < 0.7 * _count(two, _MAGENTA)


def test_image_only() -> None:
    assert _count(_panel(), (10, 200, 30)) > 1000


def _texts(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Notes that are written into tiles."""
    written = []
    original = Axes.text

    def record(axis: Axes, x: float, y: float, text: str, **kwargs: object) -> object:
        written.append(text)
        return original(axis, x, y, text, **kwargs)

    monkeypatch.setattr(Axes, "text", record)
    return written


def test_missing_labels_are_named(two: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    written = _texts(monkeypatch)
    panel = _panel(("semseg", "normals"), _ALL)
    assert panel.shape == two.shape
    assert written == ["no label"] * 3


def test_missing_predictions_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    written = _texts(monkeypatch)
    _panel(_ALL, ("semseg", "saliency", "normals", "edge"))
    assert written == ["no prediction"]


def _legends(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    shown = []
    original = Axes.legend

    def record(axis: Axes, handles: list, **kwargs: object) -> object:
        shown.append([handle.get_label() for handle in handles])
        return original(axis, handles=handles, **kwargs)

    monkeypatch.setattr(Axes, "legend", record)
    return shown


def test_legends(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = _legends(monkeypatch)
    _panel(_ALL, _ALL)
    # Classes that occur, most frequent first, without ignored pixels.
    assert shown == [["chair", "floor"], ["right", "up", "to camera"]]


def test_without_metainfo(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = _legends(monkeypatch)
    panel = _panel(_ALL, _ALL, meta={})
    assert shown[0] == ["1", "0"]
    assert _count(panel, (128, 0, 0)) > 1000  # VOC's colour of class 1


@pytest.mark.parametrize("side", [256, 700, 1900])
def test_lines_of_one_pixel_survive_where_tiles_are_smaller(side: int) -> None:
    sample = MultiTaskDataSample()
    lines = torch.zeros((1, side, side), dtype=torch.uint8)
    rows = [
        side * k // 10 + k * k % 7 for k in range(1, 10)
    ]  # at positions that no regular sampling hits
    lines[:, rows] = 1
    sample.set_label("edge", lines)
    image = np.zeros((side, side, 3), np.uint8)
    panel = draw_panel(image, sample, build_tasks(dict(edge=dict(type="Edge"))), {})
    middle = panel[40:280, 3 * panel.shape[1] // 4].max(axis=-1) > 127
    assert (np.diff(middle.astype(int)) == 1).sum() == len(rows)
    assert middle.mean() < 0.15  # and are still lines
