"""Panels of an image, its labels and its predictions."""

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw, ImageFont

from vmt_mm.errors import InputError
from vmt_mm.structures import MultiTaskDataSample
from vmt_mm.tasks import build_tasks
from vmt_mm.visualization import draw_overlay, draw_panel, draw_strip

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


def _sample(
    labels: tuple[str, ...], predictions: tuple[str, ...], size: tuple[int, int], seed: int = 0
) -> MultiTaskDataSample:
    sample = MultiTaskDataSample(metainfo=dict(sample_id="0001"))
    for name, value in _values(seed, size, labels).items():
        sample.set_label(name, value)
    for name, value in _values(seed + 1, size, predictions).items():
        sample.set_prediction(name, value)
    return sample


def _panel(
    labels: tuple[str, ...] = (),
    predictions: tuple[str, ...] = (),
    size: tuple[int, int] = (24, 32),
    meta: dict | None = None,
) -> np.ndarray:
    image = np.full((*size, 3), (10, 200, 30), np.uint8)
    sample = _sample(labels, predictions, size)
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


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Texts of the pictures that the test draws."""
    texts = []
    original = ImageDraw.ImageDraw.text

    def record(pen: ImageDraw.ImageDraw, place: tuple, text: str, *more: object) -> None:
        texts.append(text)
        original(pen, place, text, *more)

    monkeypatch.setattr(ImageDraw.ImageDraw, "text", record)
    return texts


def test_missing_labels_are_named(two: np.ndarray, written: list[str]) -> None:
    panel = _panel(("semseg", "normals"), _ALL)
    assert panel.shape == two.shape
    assert written.count("no label") == 3
    assert "no prediction" not in written


def test_tasks_that_are_not_shown_have_no_legend(written: list[str]) -> None:
    _panel(("saliency",), ())
    assert [x for x in written if x not in _ALL and x] == ["0001", "label", *["no label"] * 4]


def test_missing_predictions_are_named(written: list[str]) -> None:
    _panel(_ALL, ("semseg", "saliency", "normals", "edge"))
    assert written.count("no prediction") == 1
    assert "no label" not in written


def test_legends(written: list[str]) -> None:
    _panel(_ALL, _ALL)
    # Titles of image and rows; then per task its name and the legend: classes that occur, most
    # frequent first, without ignored pixels.
    assert [text for text in written if text] == [
        *("0001", "prediction", "label", "semseg", "chair", "floor", "saliency"),
        *("normals", "up", "down", "left", "right", "to camera", "edge"),
        *("depth", "0.5", "1", "2", "5", "10 m"),
    ]


def test_classes_are_ordered_by_their_area_in_all_rows(written: list[str]) -> None:
    sample = MultiTaskDataSample()
    sample.set_prediction("semseg", torch.zeros((1, 4, 4), dtype=torch.uint8))
    label = torch.full((1, 4, 4), 2, dtype=torch.uint8)
    label[0, 0, 0] = 1
    label[0, 0, 1] = 0
    sample.set_label("semseg", label)
    tasks = dict(semseg=build_tasks(_TASKS)["semseg"])
    draw_panel(None, sample, tasks, _META)
    assert written[-3:] == ["floor", "lamp", "chair"]


def test_without_metainfo(written: list[str]) -> None:
    panel = _panel(_ALL, _ALL, meta={})
    assert "1" in written[written.index("semseg") :][:2]
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
    panel = draw_panel(None, sample, build_tasks(dict(edge=dict(type="Edge"))), {})
    column = panel[:, 3 * panel.shape[1] // 4].max(axis=-1)
    inside = np.flatnonzero(column == 0)[[0, -1]]  # without the white above and below
    middle = column[slice(*inside)] > 127
    assert (np.diff(middle.astype(int)) == 1).sum() == len(rows)
    assert middle.mean() < 0.15  # and are still lines


def _ink(place: tuple[float, float], text: str, font: ImageFont.FreeTypeFont, anchor: str) -> int:
    """Count the pixels of a text with space around it."""
    alone = Image.new("RGB", (1400, 200), "white")
    middle = (place[0] % 1 + 700, place[1] % 1 + 100)
    ImageDraw.Draw(alone).text(middle, text, "black", font, anchor)
    return int((np.array(alone) < 255).any(axis=-1).sum())


_ROOMS = [f"{'other ' * (k % 3 == 0)}thing {k}" for k in range(39)]
_ROOMS.append("a thing whose name is longer than a column of the panel is wide, at any width of it")


@pytest.mark.parametrize("size", [(60, 80), (480, 640), (30, 2000), (800, 50)])
@pytest.mark.parametrize("labels", [True, False], ids=["labels", "predictions"])
def test_texts_are_complete_and_cover_no_picture(
    monkeypatch: pytest.MonkeyPatch, size: tuple[int, int], labels: bool
) -> None:
    kinds = dict(
        rooms=dict(type="Segmentation", num_classes=40),
        depth=dict(type="Depth"),
        a_task_whose_name_is_longer_than_its_column_is_wide=dict(type="Saliency"),
    )
    rng, sample = np.random.default_rng(0), MultiTaskDataSample(metainfo=dict(sample_id="a/" * 99))
    tasks = build_tasks(kinds)
    for name in tasks:
        values = torch.from_numpy(rng.random((1, *size), np.float32) * 40)
        values = values.byte() if name == "rooms" else values / 40
        sample.set_prediction(name, values)
        if labels:
            sample.set_label(name, values)
    written, original = [], ImageDraw.ImageDraw.text

    def record(pen: ImageDraw.ImageDraw, *text: object) -> None:
        written.append(text)
        if visible:
            original(pen, *text)

    monkeypatch.setattr(ImageDraw.ImageDraw, "text", record)
    image = np.full((*size, 3), 90, np.uint8)
    meta = dict(rooms=dict(classes=_ROOMS))
    visible = True
    panel = draw_panel(image, sample, tasks, meta)
    texts = [(place, text, font, anchor) for place, text, _, font, anchor in written]
    visible = False
    without = draw_panel(image, sample, tasks, meta)
    monkeypatch.undo()
    ink = (panel != without).any(axis=-1)
    assert (without[ink] == 255).all()  # not on a picture, or on a colour of a legend
    assert ink.sum() == sum(_ink(*text) for text in texts)  # not on another text, and not cut
    names = [text for _, text, *_ in texts if "thing" in text]
    left_out = [int(text.split()[1]) for _, text, *_ in texts if text.startswith("and ")]
    assert len(names) + sum(left_out) == 40
    assert len(names) > 25
    assert min(font.size for *_, font, _ in texts) >= 0.05 * 320


def _contains(panel: np.ndarray, picture: np.ndarray) -> bool:
    """Whether a panel has the picture somewhere, with the same pixels."""
    height, width = picture.shape[:2]
    found = (panel == picture[0, 0]).all(axis=-1)
    return any(
        np.array_equal(panel[y : y + height, x : x + width], picture)
        for y, x in np.argwhere(found[: 1 - height or None, : 1 - width or None])
        if np.array_equal(panel[y, x : x + width], picture[0])
    )


def test_pictures_have_the_pixels_of_the_image_or_whole_multiples() -> None:
    tasks = build_tasks(dict(semseg=_TASKS["semseg"]))
    for size, times in (((48, 400), 1), ((24, 32), 10)):
        classes = np.random.default_rng(0).integers(0, 3, (1, *size), np.uint8)
        sample = MultiTaskDataSample()
        sample.set_prediction("semseg", torch.from_numpy(classes))
        drawn = tasks["semseg"].draw(classes, _META["semseg"])
        drawn = drawn.repeat(times, axis=0).repeat(times, axis=1)
        assert _contains(draw_panel(None, sample, tasks, _META), drawn)


def test_rows_are_models() -> None:
    tasks, size = build_tasks(dict(semseg=_TASKS["semseg"])), (48, 400)
    one, two = (_sample(("semseg",), ("semseg", "depth"), size, seed) for seed in (0, 1))
    two.pred_semseg.data = 2 - one.pred_semseg.data.clip(max=2)
    panel = draw_panel(None, dict(one=one, two=two), tasks, _META)
    for values in (one.prediction("semseg"), two.prediction("semseg"), one.label("semseg")):
        assert _contains(panel, tasks["semseg"].draw(values.numpy(), _META["semseg"]))


def test_columns_have_the_order_of_the_tasks(written: list[str]) -> None:
    names = ("edge", "depth", "semseg", "normals")
    tasks = build_tasks({name: _TASKS[name] for name in names})
    draw_panel(None, _sample((), _ALL, (8, 8)), tasks, _META)
    assert [text for text in written if text in _TASKS] == [*names]


def test_a_panel_without_image() -> None:
    tasks, sample = build_tasks(_TASKS), _sample(_ALL, _ALL, (24, 32))
    maps = draw_panel(None, sample, tasks, _META)
    image = np.full((24, 32, 3), (10, 200, 30), np.uint8)
    both = draw_panel(image, sample, tasks, _META)
    assert _contains(both, maps[:, 10:-10])  # without the margins: the same maps and legends
    assert not _count(maps, (10, 200, 30))
    with pytest.raises(InputError, match="nothing to draw"):
        draw_panel(None, MultiTaskDataSample(), tasks, _META)


def test_frames_of_a_video_have_equal_even_sizes() -> None:
    image, tasks = np.zeros((25, 33, 3), np.uint8), build_tasks(dict(semseg=_TASKS["semseg"]))
    meta = dict(semseg=dict(classes=["a long name of a class", "another long name", "lamp"]))
    frames = []
    for classes in (1, 3):
        sample = _sample((), _ALL, (25, 33))
        sample.set_prediction("semseg", sample.prediction("semseg").clip(max=classes - 1))
        frames += [draw_strip(image, sample, tasks, meta, 0.5, height) for height in (None, 81)]
    assert frames[0].shape == frames[2].shape
    assert frames[1].shape == frames[3].shape
    assert frames[1].shape[0] == 82
    assert not any(side % 2 for frame in frames for side in frame.shape[:2])
    assert all((frame[-1] == 255).all() and (frame[:, -1] == 255).all() for frame in frames)


def test_overlays_have_the_size_of_the_image() -> None:
    image = np.random.default_rng(0).integers(0, 255, (50, 70, 3), np.uint8)
    sample, tasks = _sample((), _ALL, (50, 70)), build_tasks(_TASKS)
    for task in tasks.values():
        assert np.array_equal(draw_overlay(image, sample, task, _META, 0), image)
        assert draw_overlay(image, sample, task, _META).shape == image.shape
    drawn = draw_overlay(image, sample, tasks["semseg"], _META)
    values = sample.prediction("semseg").numpy()
    assert np.array_equal(drawn, tasks["semseg"].draw(values, _META["semseg"]))
