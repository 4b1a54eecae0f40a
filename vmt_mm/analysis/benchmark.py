"""Time models against the number of tasks; show the records as a table and a figure."""

import contextlib
import copy
import io
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import numpy as np
import torch
from matplotlib.figure import Figure
from mmengine.device import get_device
from mmengine.optim import build_optim_wrapper
from rich.table import Table
from torch import Tensor

from vmt_mm.analysis.counts import count_operations, find_passes
from vmt_mm.analysis.experiment import Experiment, load_experiments
from vmt_mm.analysis.mmseg_baseline import OURS, use_variant
from vmt_mm.analysis.tables import table_of
from vmt_mm.analysis.timing import paired_ratio, seconds_in_turn
from vmt_mm.errors import InputError
from vmt_mm.models import MultiTaskSegmentor
from vmt_mm.structures import MultiTaskDataSample
from vmt_mm.visualization.figure import draw_figure

MODES = ("encoder", "infer", "train")
#: Untimed runs of each case; the first one counts its operations.
UNTIMED = 2
#: How to run models: number of ``tasks``, repeats of the config's; ``mode``; ``batch``; ``size``
#: (H, W), or None for the config's ``image_size``; ``variant``, see ``mmseg_baseline``; ``amp``:
#: bfloat16; ``compile`` the backbone.
SETTING: Mapping[str, Any] = dict(tasks=1, mode="encoder", batch=1, size=None, variant=OURS,
                                  amp=False, compile=False)  # fmt: skip
#: A row of the benchmark's JSON, see :func:`measure`.
Record = dict[str, Any]


class Case(NamedTuple):
    """A config with a setting, and a function that runs it once, for all tasks and images."""

    record: Record
    run: Callable[[], object]
    models: Sequence[MultiTaskSegmentor] = ()


def build_case(experiment: Experiment, setting: Mapping[str, Any]) -> Case:
    """Build an experiment's models and images, with fixed random values."""
    setting, device = {**SETTING, **setting}, get_device()
    tasks, batch = setting["tasks"], setting["batch"]
    size = setting["size"] or tuple(experiment.cfg.get("image_size") or ())[::-1]
    if len(size) != 2:
        raise InputError(f"{experiment.path}: has no `image_size` (width, height); give a size")
    if min(tasks, batch, *size) < 1:
        given = f"tasks={tasks}, batch={batch}, size={tuple(size)}"
        raise InputError(f"`tasks`, `batch` and `size` must be positive integers, got {given}")
    experiment = use_variant(experiment, setting["variant"])
    with torch.random.fork_rng(devices=[]), contextlib.redirect_stdout(io.StringIO()):
        torch.manual_seed(0)
        images = torch.randn(batch, 3, *size, device=device)
        models = experiment.build_models(tasks)
        for model in models:
            model.backbone.init_weights()  # mmseg prints that no file is loaded
            if setting["compile"]:
                model.backbone.compile_features()
    optimizer = dict(experiment.cfg.get("optim_wrapper") or {})
    if setting["amp"]:
        optimizer["type"] = "BFloat16OptimWrapper"
    runs = [make_run(m.to(device), images, setting["mode"], optimizer) for m in models]

    def run() -> list[object]:
        amp = setting["amp"] and setting["mode"] != "train"  # in training, the optimizer does it
        with torch.autocast(device, torch.bfloat16, enabled=amp):
            return [one() for one in runs]

    # with a model per task, there is one pass per task, even for one task
    passes = "per_task" if experiment.model_per_task else find_passes(models)
    return Case(dict(setting, config=experiment.path, size=size, passes=passes), run, models)


def make_run(
    model: MultiTaskSegmentor, images: Tensor, mode: str, optim_wrapper: Mapping[str, Any]
) -> Callable[[], object]:
    """Return the work of a mode on (B, 3, H, W); 'train' takes its own predictions as labels."""
    model.eval()
    if mode == "encoder":
        return torch.no_grad()(lambda: model.backbone(images))
    if mode == "infer":
        return lambda: model(images, mode="predict")
    optimizer = build_optim_wrapper(model, copy.deepcopy(dict(optim_wrapper)))
    samples = model(images, [MultiTaskDataSample() for _ in images], mode="predict")
    for sample in samples:
        for task in model.tasks:
            sample.set_label(task, sample.prediction(task))
    model.train()

    def step() -> None:
        with optimizer.optim_context(model):
            losses, _ = model.parse_losses(model(images, samples, mode="loss"))
        optimizer.update_params(losses)

    return step


def run_alone(options: Mapping[str, Any], record: Record, times: int) -> None:
    """Build one case and run it; for a process that measures memory."""
    (experiment,) = load_experiments([record["config"]], options)
    case = build_case(experiment, record)
    for _ in range(times):
        case.run()


def measure(
    cases: Sequence[Case], repeats: int, advance: Callable[[], object] = lambda: None
) -> list[Record]:
    """Time cases in turn; call ``advance`` after each of the (UNTIMED + repeats) runs per case."""
    if repeats < 1:
        raise InputError(f"`repeats` must be 1 or more, got {repeats!r}")
    about = dict(device=get_device(), threads=torch.get_num_threads(), peak_mem_bytes=None)
    gflops = []
    for case in cases:
        eager = any(model.eager_backward for model in case.models)
        for model in case.models:  # PyTorch's counter does not support backward in a forward pass
            model.eager_backward = False
        gflops.append(count_operations(case.run) / 1e9)
        for model in case.models:
            model.eager_backward = eager
        advance()
    seconds = seconds_in_turn([case.run for case in cases], repeats, UNTIMED - 1, advance)
    records = [
        dict(case.record, **about, gflop=gflop, median_s=median(own), min_s=min(own))
        for case, gflop, own in zip(cases, gflops, seconds, strict=True)
    ]
    for record, own in zip(records, seconds, strict=True):
        first = _find(records, record, config=records[0]["config"])
        base = seconds[records.index(first)] if first else own
        record["ratio_to_first"] = paired_ratio(own, base)
        one = _find(records, record, tasks=1)  # None if it was not timed
        record["ratio"] = record["median_s"] / one["median_s"] if one else None
        record["images_per_s"] = record["batch"] / record["median_s"]
    return records


def _find(records: Sequence[Record], like: Record, **changes: Any) -> Record | None:
    """Return the record of the same config and setting, except for the changes."""
    keys = ("config", "variant", "tasks", "size")
    wanted = {key: changes.get(key, like[key]) for key in keys}
    return next((r for r in records if wanted.items() <= r.items()), None)


def cost_table(records: Sequence[Record], rate: float) -> Table:
    """Make a table of records; ``rate`` is the machine's operations/s in matrix products."""
    rows = []
    for r in records:
        ours = _find(records, r, variant=OURS) or r
        rows.append({
            "config": Path(r["config"]).stem,
            "variant": r["variant"],
            "passes": r["passes"],
            "size": "{} x {}".format(*r["size"]),
            "tasks": str(r["tasks"]),
            "median, ms": f"{1e3 * r['median_s']:.1f}",
            "ratio to 1 task": f"{r['ratio']:.2f}" if r["ratio"] else "-",
            "images/s": f"{r['images_per_s']:.2f}",
            "GFLOP": f"{r['gflop']:.1f}",
            "of matmul rate": f"{1e9 * r['gflop'] / r['median_s'] / rate:.0%}",
            "peak MB": f"{r['peak_mem_bytes'] / 1e6:.0f}" if r["peak_mem_bytes"] else "-",
            "time to ours": f"{r['median_s'] / ours['median_s']:.2f}",
            "time to first config": "{:.3f} [{:.3f}, {:.3f}]".format(*r["ratio_to_first"]),
        })  # fmt: skip
    return table_of(_title(records), rows, left=4)


def draw(records: Sequence[Record]) -> np.ndarray:
    """Draw time, its ratio to one task, and peak memory against T, as an RGB image."""
    panels = {"median_s": "median time, s", "ratio": "ratio to the time with one task",
              "peak_mem_bytes": "peak memory, bytes"}  # fmt: skip
    lines: dict[tuple[str, str, str], list[Record]] = defaultdict(list)
    for record in sorted(records, key=lambda r: r["tasks"]):
        lines[record["config"], record["variant"], record["passes"]].append(record)
    figure = Figure(figsize=(16, 4.6 + 0.11 * len(lines)), dpi=100, layout="constrained")
    axes = figure.subplots(1, len(panels))
    for axis, (key, label) in zip(axes, panels.items(), strict=True):
        for (config, variant, passes), own in lines.items():
            values = np.array([r[key] for r in own], float)  # None becomes NaN
            style = "o-" if passes == "shared" else "s--"
            name = f"{Path(config).stem}, {variant} ({passes})"
            axis.plot([r["tasks"] for r in own], values, style, label=name)
        axis.set(xlabel="number of tasks T", ylabel=label)
        axis.set_ylim(bottom=0)
    figure.suptitle(_title(records))
    entries = axes[0].get_legend_handles_labels()
    figure.legend(*entries, loc="outside lower center", ncols=2, frameon=False, fontsize=9)
    return draw_figure(figure)


def _title(records: Sequence[Record]) -> str:
    return "{mode}: {batch} image(s), {device}, {threads} CPU thread(s)".format(**records[0])
