"""What is timed: a model of a config, in a mode, and the stock composition beside it.

Letters: B images, H, W height and width in pixels, T tasks.
"""

from __future__ import annotations

import contextlib
import copy
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from mmengine.device import get_device
from mmengine.optim import build_optim_wrapper
from torch import Tensor

from vmt_mm.analysis.models import Experiment, load_experiments
from vmt_mm.analysis.parameters import find_passes
from vmt_mm.analysis.stock import OURS, VARIANTS
from vmt_mm.errors import InputError
from vmt_mm.models import MultiTaskSegmentor
from vmt_mm.structures import MultiTaskDataSample
from vmt_mm.utils.allocator import keep_freed_memory

#: A call without arguments that does the work once.
Run = Callable[[], object]
_SEED = 0


@dataclass(frozen=True)
class Setting:
    """How models are built and run.

    Attributes:
        tasks: T; the config's own are taken again and again.
        mode: one of ``MODES``.
        batch: B.
        size: (H, W); None for the config's ``image_size``, which is (W, H).
        variant: one of ``vmt_mm.analysis.stock.VARIANTS``.
        amp: forward passes under autocast in bfloat16.
        compile: compile the encoder's loop.
        keep_memory: freed memory stays with the process, as in tools/train.py.
    """

    tasks: int
    mode: str = "encoder"
    batch: int = 1
    size: tuple[int, int] | None = None
    variant: str = OURS
    amp: bool = False
    compile: bool = False
    keep_memory: bool = False


@dataclass(frozen=True)
class Case:
    """One thing to time.

    Attributes:
        config: path of the config file.
        setting: how it is run, its size filled in.
        passes: 'shared' or 'per_task', see :func:`vmt_mm.analysis.parameters.find_passes`.
        run: does it once, for all tasks and images.
        models: what runs.
    """

    config: str
    setting: Setting
    passes: str
    run: Run
    models: Sequence[MultiTaskSegmentor] = ()


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
    model.feature_cache = None  # the images are the same each time
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


def build_case(experiment: Experiment, setting: Setting) -> Case:
    """Build an experiment's models with random weights, the same ones each time, and images.

    Raises:
        InputError: if a number is not positive, there is no size, the config lacks what the mode
            needs, or the variant does not exist for it.
    """
    size = tuple(setting.size or (experiment.cfg.get("image_size") or ())[::-1])
    if len(size) != 2:
        raise InputError(f"{experiment.path}: has no `image_size`, (width, height); give a size")
    if min(setting.tasks, setting.batch, *size) < 1:
        raise InputError(
            f"tasks, batch and size must be 1 or more, got {setting.tasks} task(s), "
            f"{setting.batch} image(s) of {size[0]} x {size[1]} pixels"
        )
    setting = replace(setting, size=size)
    experiment = VARIANTS[setting.variant](experiment)
    trains = setting.mode == "train"
    if setting.amp and trains and experiment.cfg.get("optim_wrapper"):
        cfg = copy.deepcopy(experiment.cfg)
        cfg.optim_wrapper.type = "BFloat16OptimWrapper"
        experiment = replace(experiment, cfg=cfg)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(_SEED)
        images = torch.randn(setting.batch, 3, *size, device=get_device())
        models = experiment.build_models(setting.tasks)
        with contextlib.redirect_stdout(io.StringIO()):  # mmseg says of each: no weights
            for model in models:
                model.backbone.init_weights()
    runs = []
    for model in models:
        if setting.compile:
            model.backbone.compile_features()
        runs.append(MODES[setting.mode](model.to(images.device), images, experiment))
    # even with one task such a config stands for what takes a pass for each
    passes = "per_task" if experiment.model_per_task else find_passes(models)
    return Case(experiment.path, setting, passes, _all_of(runs, setting.amp and not trains), models)


def _all_of(runs: Sequence[Run], amp: bool) -> Run:
    def run() -> list[object]:
        if not amp:
            return [one() for one in runs]
        with torch.autocast(get_device(), dtype=torch.bfloat16):
            return [one() for one in runs]

    return run


def run_alone(path: str, options: Mapping[str, Any], setting: Setting, times: int) -> None:
    """Build one case and run it, for a process that measures memory."""
    if setting.keep_memory:
        keep_freed_memory()
    (experiment,) = load_experiments([path], options)
    case = build_case(experiment, setting)
    for _ in range(times):
        case.run()
