"""Tests of the hooks, with a light mock of the runner."""

import re
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from mmengine.logging import MessageHub
from mmengine.registry import DefaultScope
from small_runs import SmallRun
from torch import nn

from vmt_mm.analysis.counts import ParameterTableHook, parameter_table
from vmt_mm.engine.hooks import reports
from vmt_mm.engine.hooks.checkpoint import CheckpointHook
from vmt_mm.engine.hooks.reports import MultiTaskVisualizationHook, PredictionWriterHook
from vmt_mm.engine.runner import LogProcessor, MultiTaskRunner
from vmt_mm.errors import InputError
from vmt_mm.structures import MultiTaskDataSample
from vmt_mm.tasks import build_tasks

_TASKS = dict(
    semseg=dict(type="Segmentation", num_classes=3),
    saliency=dict(type="Saliency"),
    normals=dict(type="Normals"),
    edge=dict(type="Edge"),
    depth=dict(type="Depth"),
)
_SIZE = (6, 8)


class _Visualizer:
    dataset_meta = None

    def __init__(self) -> None:
        self.added = []

    def add_image(self, name: str, image: np.ndarray, step: int) -> None:
        assert image.ndim == 3
        assert image.dtype == np.uint8
        self.added.append((name, step))


def _runner(wrapped: bool = False, **attributes: object) -> SimpleNamespace:
    model = SimpleNamespace(tasks=build_tasks(_TASKS))
    model = SimpleNamespace(module=model) if wrapped else model
    defaults = dict(model=model, rank=0, epoch=1, visualizer=_Visualizer())
    defaults |= dict(val_dataloader=SimpleNamespace(dataset=None))
    defaults |= dict(test_dataloader=SimpleNamespace(dataset=None))
    return SimpleNamespace(**{**defaults, **attributes})


def _sample(sample_id: str, folder: Path | None = None, seed: int = 0) -> MultiTaskDataSample:
    rng = np.random.default_rng(seed)
    normals = rng.normal(size=(3, *_SIZE))
    values = dict(
        semseg=rng.integers(0, 3, (1, *_SIZE)).astype(np.uint8),
        saliency=rng.random((1, *_SIZE), np.float32),
        normals=(normals / np.linalg.norm(normals, axis=0)).astype(np.float32),
        edge=rng.random((1, *_SIZE), np.float32),
        depth=10 * rng.random((1, *_SIZE), np.float32),
    )
    sample = MultiTaskDataSample(metainfo=dict(sample_id=sample_id))
    if folder is not None:
        path = folder / f"image_{sample_id.replace('/', '-')}.png"
        cv2.imwrite(str(path), rng.integers(0, 255, (*_SIZE, 3), np.uint8))
        sample.set_metainfo(dict(img_path=str(path)))
    for name, value in values.items():
        sample.set_prediction(name, torch.from_numpy(value))
    return sample


def _files(folder: Path) -> list[str]:
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())


@pytest.mark.parametrize("wrapped", [False, True])
def test_written_predictions_decode_as_labels(tmp_path: Path, wrapped: bool) -> None:
    samples = [_sample("0001", seed=1), _sample("room/a/0002", seed=2)]
    runner = _runner(wrapped)
    PredictionWriterHook(str(tmp_path)).after_test_iter(runner, 0, outputs=samples)
    ids = [sample.sample_id for sample in samples]
    assert _files(tmp_path) == sorted(f"{task}/{i}.png" for task in _TASKS for i in ids)
    tasks = build_tasks(_TASKS)
    for sample in samples:

        def decoded(task: str, sample_id: str = sample.sample_id) -> np.ndarray:
            return tasks[task].label.decode(tmp_path / task / f"{sample_id}.png")

        classes = sample.prediction("semseg")[0].numpy()
        np.testing.assert_array_equal(decoded("semseg"), classes)
        for task in ("saliency", "edge"):
            foreground = sample.prediction(task)[0].numpy() > 0.5
            np.testing.assert_array_equal(decoded(task), foreground)
        # Each component is off by up to half a grey level, 1 / 255, and normalised again.
        normals = sample.prediction("normals").permute(1, 2, 0).numpy()
        np.testing.assert_allclose(decoded("normals"), normals, atol=2 / 255)
        depth = sample.prediction("depth")[0].numpy()
        np.testing.assert_allclose(decoded("depth"), depth, atol=0.51e-3)


def test_written_files_by_value(tmp_path: Path) -> None:
    sample = MultiTaskDataSample(metainfo=dict(sample_id="a"))
    sample.set_prediction("semseg", torch.tensor([[[0, 1, 2]]], dtype=torch.uint8))
    sample.set_prediction("saliency", torch.tensor([[[0.0, 0.25, 1.0]]]))
    sample.set_prediction(
        "normals", torch.tensor([[0.0, 1, -0.6], [0, 0, 0], [1, 0, 0.8]])[:, None]
    )
    PredictionWriterHook(str(tmp_path)).after_test_iter(_runner(), 0, outputs=[sample])

    def read(task: str) -> np.ndarray:
        return cv2.imread(str(tmp_path / task / "a.png"), cv2.IMREAD_UNCHANGED)

    assert read("semseg").tolist() == [[0, 1, 2]]
    assert read("saliency").tolist() == [[0, 64, 255]]
    # RGB, v = 127.5 (n + 1); cv2 reads BGR. A half (127.5) rounds to the even value.
    expected = [[[128, 128, 255], [255, 128, 128], [51, 128, 230]]]
    np.testing.assert_allclose(read("normals")[..., ::-1], expected, atol=1)
    # Tasks without predictions get no folder.
    assert _files(tmp_path) == ["normals/a.png", "saliency/a.png", "semseg/a.png"]


def _validate(
    hook: MultiTaskVisualizationHook, runner: SimpleNamespace, batches: list, folder: Path
) -> list:
    # As mmengine's validation loop does.
    hook.before_val(runner)
    hook.before_val_epoch(runner)
    names = iter(range(sum(batches)))
    for index, size in enumerate(batches):
        outputs = [_sample(f"v/{next(names)}", folder) for _ in range(size)]
        hook.after_val_iter(runner, index, outputs=outputs)
    return [name for name, _ in runner.visualizer.added]


@pytest.fixture
def small_panels(monkeypatch: pytest.MonkeyPatch) -> None:
    """Panels of one pixel for tests that only count them: drawing takes most of the time."""
    monkeypatch.setattr(reports, "draw_panel", lambda *_: np.zeros((1, 1, 3), np.uint8))


# The last batch is usually smaller than the others.
@pytest.mark.parametrize("batches", [[2, 2, 2], [1, 1, 1], [4], [2, 1], [3, 1]])
@pytest.mark.parametrize("num_images", [0, 2, 3])
def test_validation_shows_the_first_images(
    tmp_path: Path, small_panels: None, batches: list[int], num_images: int
) -> None:
    names = _validate(MultiTaskVisualizationHook(num_images), _runner(), batches, tmp_path)
    assert names == [f"val_v_{i}" for i in range(min(num_images, sum(batches)))]


def test_every_validation_shows_them(tmp_path: Path, small_panels: None) -> None:
    hook, runner = MultiTaskVisualizationHook(num_images=2), _runner()
    for runner.epoch in (1, 2):
        _validate(hook, runner, [2, 1], tmp_path)
    assert runner.visualizer.added == [
        ("val_v_0", 1),
        ("val_v_1", 1),
        ("val_v_0", 2),
        ("val_v_1", 2),
    ]


def test_the_first_process_shows_them(tmp_path: Path, small_panels: None) -> None:
    hook = MultiTaskVisualizationHook(num_images=1)
    assert _validate(hook, _runner(), [1], tmp_path) == ["val_v_0"]
    assert _validate(hook, _runner(rank=1), [1], tmp_path) == []


def test_test_writes_one_panel_an_image(tmp_path: Path) -> None:
    runner = _runner(wrapped=True)
    hook = MultiTaskVisualizationHook(num_images=1, show_dir=str(tmp_path / "show"))
    for index, ids in enumerate([["a", "n/b"], ["n/c"]]):
        hook.after_test_iter(runner, index, outputs=[_sample(i, tmp_path) for i in ids])
    assert _files(tmp_path / "show") == ["a.png", "n/b.png", "n/c.png"]
    assert min(cv2.imread(str(tmp_path / "show" / "a.png")).shape[:2]) > 100
    assert runner.visualizer.added == []


def test_panels_without_image_do_not_depend_on_it(tmp_path: Path) -> None:
    files = {}
    for draw_image in (True, False):
        for grey in (0, 200):
            sample, folder = _sample("a", tmp_path), tmp_path / f"{draw_image}_{grey}"
            cv2.imwrite(sample.img_path, np.full((*_SIZE, 3), grey, np.uint8))
            hook = MultiTaskVisualizationHook(show_dir=str(folder), draw_image=draw_image)
            hook.after_test_iter(_runner(), 0, outputs=[sample])
            files[draw_image, grey] = (folder / "a.png").read_bytes()
    assert files[False, 0] == files[False, 200]
    assert files[True, 0] != files[True, 200]
    Path(sample.img_path).unlink()
    hook.after_test_iter(_runner(), 0, outputs=[sample])  # reads no image


def test_no_outputs_and_no_folder(tmp_path: Path) -> None:
    hook = MultiTaskVisualizationHook(show_dir=str(tmp_path / "show"))
    hook.after_test_iter(_runner(), 0)
    hook.after_val_iter(_runner(), 0)
    MultiTaskVisualizationHook().after_test_iter(_runner(), 0, outputs=[_sample("a", tmp_path)])
    assert not (tmp_path / "show").exists()


class _Toy(nn.Module):
    """4 * 3 + 3 frozen and 3 * 2 trainable backbone parameters, 6 of an output norm, heads."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Module()
        self.backbone.frozen = nn.Linear(4, 3).requires_grad_(False)
        self.backbone.adapter = nn.Linear(3, 2, bias=False)
        self.backbone.norm3 = nn.LayerNorm(3)
        self.backbone.stage = nn.Module()
        self.backbone.stage.norm1 = nn.LayerNorm(5)  # not an output norm
        self.heads = nn.ModuleDict(dict(semseg=nn.Linear(1000, 2), saliency=nn.Linear(3, 1)))
        self.heads["saliency"].bias.requires_grad_(False)


_ROWS = {
    "encoder": ["16", "31", "51.61 %"],
    "output norms": ["6", "6", "100.00 %"],
    "head semseg": ["2,002", "2,002", "100.00 %"],
    "head saliency": ["3", "4", "75.00 %"],
    "sum": ["2,027", "2,043", "99.22 %"],
}


def _rows(text: str) -> dict[str, list[str]]:
    lines = [[cell.strip() for cell in line.split("│")[1:-1]] for line in text.splitlines()]
    return {cells[0]: cells[1:] for cells in lines if cells}


def test_parameter_table() -> None:
    assert _rows(parameter_table(_Toy())) == _ROWS


@pytest.mark.parametrize("wrapped", [False, True])
def test_parameter_table_is_logged(wrapped: bool) -> None:
    lines = []
    model = SimpleNamespace(module=_Toy()) if wrapped else _Toy()
    ParameterTableHook().before_train(
        SimpleNamespace(model=model, logger=SimpleNamespace(info=lines.append))
    )
    assert len(lines) == 1
    assert _rows(lines[0]) == _ROWS


@pytest.mark.parametrize("name", ["visualization", "timer", "checkpoint", "labels"])
def test_none_disables_a_default_hook(name: str) -> None:
    hooks = dict(
        labels=dict(type="LabelReportHook"),
        visualization=dict(type="PredictionWriterHook", out_dir="x"),
    )

    def registered(**others: None) -> list[str]:
        runner = object.__new__(MultiTaskRunner)
        runner._hooks = []
        with DefaultScope.overwrite_default_scope("vmt_mm"):
            runner.register_default_hooks({**hooks, **others})
        return [kind for hook in runner.hooks if (kind := type(hook).__name__) != "Hook"]

    full = registered()
    off = dict(
        visualization="PredictionWriterHook", labels="LabelReportHook", timer="IterTimerHook"
    )
    full.remove(off.get(name, "CheckpointHook"))
    assert registered(**{name: None}) == full


def test_an_argument_that_the_checkpoint_hook_does_not_have() -> None:
    with pytest.raises(InputError, match="CheckpointHook: unknown argument 'max_keep'; did you"):
        CheckpointHook(max_keep=3)


def test_the_log_leaves_single_classes_to_their_table() -> None:
    hub = MessageHub.get_instance("classes")
    scores = {"floor/mIoU": 50.0, "floor/IoU/oak, dark": 12.5, "normals/within_11.25": 75.0}
    for key, value in scores.items():
        hub.update_scalar(f"val/{key}", value)
    loop = SimpleNamespace(dataloader=[0])
    runner = SimpleNamespace(message_hub=hub, epoch=1, iter=3, val_loop=loop, _train_loop={})
    results, line = LogProcessor(by_epoch=True).get_log_after_epoch(runner, 1, "val")
    assert scores.items() <= results.items()  # the values for TensorBoard and others
    assert "floor/mIoU: 50.0000  normals/within_11.25: 75.0000" in line
    assert "oak" not in line
    assert "train_seconds" not in results
    for seconds in (2.0, 0.5):
        hub.update_scalar("train/time", seconds)
    results, _ = LogProcessor(by_epoch=True).get_log_after_epoch(runner, 1, "val")
    assert results["train_seconds"] == 2.5


def test_log_lines_average_the_terms_of_losses(scenes, tmp_path) -> None:
    losses = [dict(type="CrossEntropy", name="ce"), dict(type="DiceLoss", loss_weight=0.5)]
    run = SmallRun(
        tmp_path,
        scenes,
        {"model.tasks.semseg.loss": losses, "train_dataloader.dataset.indices": 8},
    )
    run.cfg.default_hooks.logger.interval = 2
    run.train()
    (line, *_) = (text for text in run.log.splitlines() if "Epoch(train)" in text)
    values = {k: float(v) for k, v in re.findall(r"(\S+): (\d+\.\d+)", line)}
    assert values["loss_semseg"] == pytest.approx(
        values["semseg.ce"] + values["semseg.dice"], abs=2e-4
    )
    every = [run.losses[n] for n in (1, 2)]
    assert values["loss_semseg"] == pytest.approx(
        sum(e["loss_semseg"] for e in every) / 2, abs=1e-4
    )
