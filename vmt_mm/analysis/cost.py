"""Time models against the number of tasks.

Letters: B images, H, W height and width in pixels, T tasks.
"""

from __future__ import annotations

import contextlib
import copy
import io
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch
from mmengine.device import get_device
from mmengine.optim import build_optim_wrapper
from torch import Tensor

from vmt_mm.analysis.models import Experiment
from vmt_mm.analysis.parameters import find_passes
from vmt_mm.errors import InputError
from vmt_mm.models import MultiTaskSegmentor
from vmt_mm.structures import MultiTaskDataSample

#: What is timed: a call without arguments.
Run = Callable[[], object]
_WARMUP = 2


@dataclass(frozen=True)
class Case:
    """One thing to time.

    Attributes:
        config: path of the config file.
        tasks: T.
        mode: one of ``MODES``.
        passes: 'shared' or 'per_task', see :func:`vmt_mm.analysis.parameters.find_passes`.
        batch: B.
        size: (H, W).
        run: does it once, for all tasks and images.
    """

    config: str
    tasks: int
    mode: str
    passes: str
    batch: int
    size: tuple[int, int]
    run: Run


@dataclass(frozen=True)
class Cost:
    """What a case took.

    Attributes:
        case: what was timed.
        median_s: seconds.
        min_s: seconds.
        ratio: of the median to that of the same config with one task; None where that is not timed.
    """

    case: Case
    median_s: float
    min_s: float
    ratio: float | None

    def record(self) -> dict[str, Any]:
        """A row for JSON, with the device and its threads."""
        case = {name: value for name, value in vars(self.case).items() if name != "run"}
        device = dict(device=get_device(), threads=torch.get_num_threads())
        return {
            **case,
            "median_s": self.median_s,
            "min_s": self.min_s,
            "ratio": self.ratio,
        } | device


def encoder_run(model: MultiTaskSegmentor, images: Tensor, experiment: Experiment) -> Run:
    """The encoder alone: four maps of every task, all computed when the call ends."""
    model.eval()
    return torch.no_grad()(lambda: model.backbone(images))


def infer_run(model: MultiTaskSegmentor, images: Tensor, experiment: Experiment) -> Run:
    """Encoder, heads and predictions at the images' size."""
    model.eval()
    return lambda: model(images, mode="predict")


def train_run(model: MultiTaskSegmentor, images: Tensor, experiment: Experiment) -> Run:
    """Forward pass, losses, backward pass and the optimizer's step, on synthetic labels.

    A task's labels are what the untrained model predicts: values of the right kind, whatever the
    task is.
    """
    if not experiment.cfg.get("optim_wrapper"):
        raise InputError(f"{experiment.path}: a training step needs the config's `optim_wrapper`")
    optimizer = build_optim_wrapper(model, copy.deepcopy(experiment.cfg.optim_wrapper))
    samples = [MultiTaskDataSample() for _ in images]
    for sample in model.eval()(images, samples, mode="predict"):
        for task in model.tasks:
            sample.set_label(task, sample.prediction(task))
    model.train()

    def run() -> None:
        with optimizer.optim_context(model):
            losses, _ = model.parse_losses(model(images, samples, mode="loss"))
        optimizer.update_params(losses)

    return run


#: Mode -> function that makes of a model and images (B, 3, H, W) what is timed.
MODES: Mapping[str, Callable[[MultiTaskSegmentor, Tensor, Experiment], Run]] = {
    "encoder": encoder_run,
    "infer": infer_run,
    "train": train_run,
}


def build_case(
    experiment: Experiment, tasks: int, mode: str, batch: int, size: Sequence[int] | None
) -> Case:
    """Build an experiment's models with T tasks, random weights and random images.

    Args:
        experiment: the config.
        tasks: T; the config's own are taken again and again.
        mode: one of ``MODES``.
        batch: B.
        size: (H, W); None for the config's ``image_size``, which is (W, H).

    Raises:
        InputError: if a number is not positive, there is no size, or the config lacks what the mode
            needs.
    """
    size = tuple(size or (experiment.cfg.get("image_size") or ())[::-1])
    if len(size) != 2:
        raise InputError(f"{experiment.path}: has no `image_size`, (width, height); give a size")
    if min(tasks, batch, *size) < 1:
        raise InputError(
            f"tasks, batch and size must be 1 or more, got {tasks} task(s), {batch} image(s) of "
            f"{size[0]} x {size[1]} pixels"
        )
    images = torch.randn(batch, 3, *size, device=get_device())
    models = experiment.build_models(tasks)
    with contextlib.redirect_stdout(io.StringIO()):  # mmseg says of each that it has no weights
        for model in models:
            model.backbone.init_weights()
    runs = [MODES[mode](model.to(images.device), images, experiment) for model in models]
    # even with one task such a config stands for what takes a pass for each
    passes = "per_task" if experiment.model_per_task else find_passes(models)
    return Case(experiment.path, tasks, mode, passes, batch, size, lambda: [run() for run in runs])


def measure(
    cases: Sequence[Case], repeats: int, advance: Callable[[], object] = lambda: None
) -> list[Cost]:
    """Time cases in turn, so that a slow phase of the machine hits all of them alike.

    Each runs twice untimed; then every round runs all of them once.

    Args:
        cases: what to time.
        repeats: number of rounds.
        advance: called after each of ``len(cases) * calls_of_each(repeats)`` runs.

    Raises:
        InputError: if ``repeats`` is not positive.
    """
    if repeats < 1:
        raise InputError(f"repeats must be 1 or more, got {repeats}")
    seconds: list[list[float]] = [[] for _ in cases]
    for number in range(calls_of_each(repeats)):
        for case, own in zip(cases, seconds, strict=True):
            duration = _time(case.run)
            if number >= _WARMUP:
                own.append(duration)
            advance()
    medians = {(c.config, c.tasks): median(own) for c, own in zip(cases, seconds, strict=True)}
    costs = []
    for case, own in zip(cases, seconds, strict=True):
        one = medians.get((case.config, 1))
        ratio = None if one is None else median(own) / one
        costs.append(Cost(case, median(own), min(own), ratio))
    return costs


def calls_of_each(repeats: int) -> int:
    """How often :func:`measure` runs each case."""
    return _WARMUP + repeats


def _time(run: Run) -> float:
    """Seconds of one call, until the device has done all of it."""
    synchronize = getattr(torch, get_device()).synchronize
    synchronize()
    start = time.perf_counter()
    result = run()
    synchronize()
    end = time.perf_counter()
    del result  # kept until here: to free it is no part of the cost
    return end - start
