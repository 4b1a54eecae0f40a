"""Trainings of a few seconds within the test's process that record every loss exactly.

``tests/conftest.py`` imports the fixtures.
"""

from __future__ import annotations

import copy
import functools
import itertools
import logging
import multiprocessing
import os
import pickle
import random
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.logging import MessageHub, MMLogger
from mmengine.registry import DefaultScope, init_default_scope
from mmengine.visualization import Visualizer
from run_hooks import Recorder
from sharing import build_once
from torch import nn

from vmt_mm.apis import load_config
from vmt_mm.engine.runner import MultiTaskRunner
from vmt_mm.rendering import write_dataset

CONFIG = Path(__file__).parents[2] / "configs/vmt/vmt_swin-nano_shapes.py"
#: Iterations per epoch: 16 scenes in batches of 4.
LENGTH = 4

#: Four scenes: epochs of one iteration.
ONE_STEP = {"train_dataloader.dataset.indices": LENGTH}

_SIZE = 48
_RENDER = dict(train=16, val=5, size=_SIZE, seed=0)
_NUMBERS = itertools.count()
_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class SmallRun:
    """A simulated process: a new runner, which trains or tests.

    Args:
        folder: the work dir.
        scenes: the rendered scenes.
        options: merged into the small config, as by ``--cfg-options``.
        hooks: further hooks.
        workers: number of processes that load training data.
        persistent: whether the workers outlive an epoch.
        cfg: another config; by default the small one.
    """

    def __init__(
        self,
        folder: Path,
        scenes: Path,
        options: Mapping[str, Any] | None = None,
        hooks: Sequence[Hook] = (),
        workers: int = 0,
        persistent: bool = False,
        cfg: Config | None = None,
    ) -> None:
        self.folder, self.hooks, self.record = Path(folder), hooks, Recorder()
        self.cfg = small_config(scenes) if cfg is None else cfg
        self.cfg.merge_from_dict(copy.deepcopy(dict(options or {})))  # which empties what it gets
        self.cfg.work_dir = str(folder)
        self.cfg.experiment_name = f"small-{next(_NUMBERS)}"
        self.cfg.train_dataloader.update(
            batch_size=self.cfg.total_batch_size,
            num_workers=workers,
            persistent_workers=persistent,
        )
        self.runner: MultiTaskRunner | None = None
        self.model: nn.Module | None = None
        #: The message hub's entries.
        self.info: dict[str, Any] = {}
        #: Signal handlers at the end of the run.
        self.handlers: dict[int, Any] = {}

    def train(self) -> SmallRun:
        """Train; the record is kept if an error ends the training."""
        self._run("train")
        return self

    def test(self) -> dict[str, float]:
        """Test; return the metrics."""
        return self._run("test")

    @property
    def losses(self) -> dict[int, dict[str, float]]:
        return self.record.losses

    @property
    def validations(self) -> list[tuple[int, dict[str, float]]]:
        return self.record.validations

    def __getstate__(self) -> dict[str, Any]:
        """Everything except the runner and its hooks, which cannot be pickled."""
        return {**vars(self), "runner": None, "hooks": ()}

    @property
    def log(self) -> str:
        """All logs of the work dir."""
        return "".join(path.read_text() for path in sorted(self.folder.rglob("*.log")))

    def _run(self, what: str) -> Any:
        with own_state():
            self.runner = MultiTaskRunner.from_cfg(self.cfg)
            self.model = self.runner.model
            self.info = self.runner.message_hub.runtime_info
            for hook in (self.record, *self.hooks):
                self.runner.register_hook(hook)
            try:
                return getattr(self.runner, what)()
            finally:
                self.handlers = {number: signal.getsignal(number) for number in _SIGNALS}
                _stop_workers(self.runner)


def small_config(scenes: Path) -> Config:
    """A copy of the small config; data and validation need no worker processes."""
    return copy.deepcopy(_read_config(str(scenes)))


@functools.lru_cache
def _read_config(scenes: str) -> Config:
    init_default_scope("vmt_mm")
    return load_config(CONFIG, small_options(scenes))


def small_options(scenes: str) -> dict[str, Any]:
    """Options that make the config small."""
    options = {
        "data_root": scenes,
        "render": _RENDER,
        "image_size": (_SIZE, _SIZE),
        "total_batch_size": 4,
        "train_cfg.max_epochs": 2,
        "train_cfg.val_interval": 1,
        "model.head.channels": 16,  # dropout stays on
        "default_hooks.logger.interval": 1,
        "default_hooks.checkpoint.max_keep_ckpts": -1,
        "default_hooks.visualization.num_images": 0,  # drawing takes longer than the training
    }
    for name in ("train", "val", "test"):
        options[f"{name}_dataloader.dataset.serialize_data"] = False
        options[f"{name}_dataloader.num_workers"] = 0
        options[f"{name}_dataloader.persistent_workers"] = False
    return options


@contextmanager
def own_state() -> Iterator[None]:
    """Simulate a new process: reset global state, and restore it afterwards.

    mmengine keeps logs, message hubs and scopes per process, PyTorch and others their settings: a
    resumed run must not find those of the run before it. Two steps that take most of a small run's
    time are skipped: formatting the config and describing the machine.
    """
    kinds = (MMLogger, MessageHub, Visualizer, DefaultScope)
    before = [dict(kind._instance_dict) for kind in kinds]
    handlers = {number: signal.getsignal(number) for number in _SIGNALS}
    generators = torch.get_rng_state(), np.random.get_state(), random.getstate()
    start_method = multiprocessing.get_start_method(allow_none=True)
    threads = torch.get_num_threads(), cv2.getNumThreads()
    raise_exceptions = logging.raiseExceptions
    with mock.patch.dict(os.environ), ExitStack() as stack:
        for target, value in (
            ("yapf.yapflib.yapf_api.FormatCode", lambda text, **_: (text, True)),
            ("mmengine.runner.runner.collect_env", dict),
        ):
            stack.enter_context(mock.patch(target, value))
        for name in ("benchmark", "deterministic"):
            value = getattr(torch.backends.cudnn, name)
            stack.callback(setattr, torch.backends.cudnn, name, value)
        stack.callback(
            torch.use_deterministic_algorithms, torch.are_deterministic_algorithms_enabled()
        )
        try:
            for kind in kinds:
                kind._instance_dict.clear()
            init_default_scope("vmt_mm")
            yield
        finally:
            for logger in MMLogger._instance_dict.values():
                for handler in logger.handlers:
                    handler.close()
            for kind, instances in zip(kinds, before, strict=True):
                kind._instance_dict.clear()
                kind._instance_dict.update(instances)
            for number, handler in handlers.items():
                signal.signal(number, handler)
            torch.set_rng_state(generators[0])
            np.random.set_state(generators[1])
            random.setstate(generators[2])
            multiprocessing.set_start_method(start_method, force=True)
            torch.set_num_threads(threads[0])
            cv2.setNumThreads(threads[1])
            logging.raiseExceptions = raise_exceptions


def _stop_workers(runner: MultiTaskRunner) -> None:
    """Stop persistent workers, which otherwise live as long as the runner."""
    iterator = getattr(getattr(runner.train_loop, "dataloader", None), "_iterator", None)
    if iterator is not None:
        iterator._shutdown_workers()
        runner.train_loop.dataloader._iterator = None


@pytest.fixture(scope="session")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A few small scenes. Read-only."""

    def render(folder: Path) -> None:
        write_dataset(folder / "shapes", workers=1, **_RENDER)

    return build_once(tmp_path_factory, "scenes", render) / "shapes"


@pytest.fixture
def small_run(scenes: Path, tmp_path: Path) -> Callable[..., SmallRun]:
    """Create a small run in ``tmp_path/run``, or in the given ``folder``."""

    def make(options: Mapping[str, Any] | None = None, *hooks: Hook, **kwargs: Any) -> SmallRun:
        folder = kwargs.pop("folder", tmp_path / "run")
        return SmallRun(folder, scenes, options, hooks, **kwargs)

    return make


@pytest.fixture(scope="session")
def full_run(scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> SmallRun:
    """Three uninterrupted epochs; every checkpoint is kept. Read-only."""

    def train(folder: Path) -> None:
        run = SmallRun(folder / "run", scenes, {"train_cfg.max_epochs": 3}).train()
        (folder / "run.pkl").write_bytes(pickle.dumps(run))

    return pickle.loads((build_once(tmp_path_factory, "full_run", train) / "run.pkl").read_bytes())


def later(losses: Mapping[int, Any], done: int) -> dict[int, Any]:
    """The part of a record after the first ``done`` iterations."""
    return {number: value for number, value in losses.items() if number > done}
