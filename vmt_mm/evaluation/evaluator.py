"""The multi-task evaluator, the relative gain Delta, and the metric keys of an evaluator."""

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any, ClassVar

import numpy as np
from mmengine.evaluator import BaseMetric, DumpResults, Evaluator

from vmt_mm.errors import InputError
from vmt_mm.evaluation.task_metric import Direction, TaskMetric, is_of_class
from vmt_mm.registry import EVALUATOR, METRICS, own_scope
from vmt_mm.tasks import Task, build_tasks


def relative_gain(
    scores: Mapping[str, float], reference: Mapping[str, float], tasks: Mapping[str, Task]
) -> float:
    """Return the mean relative gain over single-task models, in percent.

    Delta = (100 / T) sum_t (-1)^{l_t} (M_t - S_t) / S_t with l_t = 1 if lower is better, else 0.
    ``scores`` contains M_t of each task, ``reference`` S_t (Maninis et al., arXiv:1904.08918).

    >>> tasks = build_tasks(dict(depth=dict(type="Depth")))  # RMSE: lower is better
    >>> round(relative_gain(dict(depth=0.45), dict(depth=0.5), tasks), 3)
    10.0
    """
    check_directions({name: tasks[name] for name in reference})
    signs = {t: 1 if tasks[t].higher_is_better else -1 for t in reference}
    gains = [signs[t] * (scores[t] - score) / score for t, score in reference.items()]
    return 100 * float(np.mean(gains))


def check_directions(tasks: Mapping[str, Task]) -> None:
    """Raise InputError if the direction of a task's primary metric is unknown."""
    for name, task in tasks.items():
        if task.higher_is_better is None:
            kind, key = (task.metric() or {}).get("type"), task.primary_metric
            what = f"{kind} does not declare whether a higher {key} is better"
            rule = f"set its directions = dict({key}='greater' or 'less')"
            raise InputError(f"task {name!r}: {what}; {rule}")


@EVALUATOR.register_module()
class MultiTaskEvaluator(Evaluator):
    """mmengine evaluator that runs every task's metric and reports the relative gain ``delta``.

    The tasks provide their metrics, named ``<task>/<metric>``.

    Args:
        tasks: name -> task config.
        metrics: additional metrics, such as mmengine's ``DumpResults``.
        reference: primary score of each task's single-task model, for all tasks with a primary
            metric; None disables ``delta``. See :func:`relative_gain`.
        collect_device: for all task metrics, 'cpu' or 'gpu'; see mmengine's ``BaseMetric``.
    """

    directions: ClassVar[Mapping[str, Direction]] = {"delta": "greater"}

    def __init__(
        self,
        tasks: Mapping[str, Mapping],
        metrics: Sequence[dict | BaseMetric] = (),
        reference: Mapping[str, float] | None = None,
        collect_device: str = "cpu",
    ) -> None:
        self.tasks = build_tasks(tasks)
        of_tasks = [
            METRICS.build(cfg, default_args=dict(collect_device=collect_device))
            for task in self.tasks.values()
            if (cfg := task.metric())
        ]
        with own_scope():
            super().__init__([*of_tasks, *metrics])
        self.reference = dict(reference) if reference else None
        scored = {name: task for name, task in self.tasks.items() if task.primary_metric}
        if reference:
            are_positive = (isinstance(v, (int, float)) and v > 0 for v in reference.values())
            if reference.keys() != scored.keys() or not all(are_positive):
                rule = f"must give a positive score for each of {list(scored)} and no other task"
                raise InputError(f"`reference` {rule}, got {reference!r}")
            check_directions(scored)

    def evaluate(self, size: int) -> dict[str, float]:
        """Return all metrics, and ``delta`` if all tasks of the reference have a score."""
        results = super().evaluate(size)
        reference = self.reference or {}
        keys = {t: f"{t}/{self.tasks[t].primary_metric}" for t in reference}
        if keys and all(key in results for key in keys.values()):
            scores = {task: results[key] for task, key in keys.items()}
            results["delta"] = relative_gain(scores, reference, self.tasks)
        return results


@dataclass
class Results:
    """Metric keys of an evaluator."""

    keys: dict[str, Direction] = field(default_factory=dict)  # key -> direction
    missing: dict[str, str] = field(default_factory=dict)  # declared, but not written -> reason
    #: Prefixes of metrics that list no keys and may write any; None means no prefix.
    open: set[str | None] = field(default_factory=set)

    def may_have(self, key: str) -> bool:
        """Whether a validation run may write this key."""
        prefixes = {key[:place] for place, char in enumerate(key) if char == "/"} | {None}
        known = key in self.keys or (key == "auto" and bool(self.open))
        return known or bool(prefixes & self.open)

    def nearest(self, key: str) -> str:
        """Return the score key closest to ``key``, else the first one; '' if there is none."""
        known = [k for k, way in self.keys.items() if way and k not in self.missing]
        known.sort(key=is_of_class)
        own = [k for k in known if k.startswith(f"{key.partition('/')[0]}/")]
        near = [k for k in known if k.split("/")[-1].lower() == key.lower()]  # as in mmseg
        if key not in self.keys:  # a known key is a count: suggest a score
            near += get_close_matches(key, own or known, 1, 0.8)
        return next(iter([*near, *own, *known]), "")


def results_of(evaluator: Any, meta: Mapping[str, Any]) -> Results:
    """Return the metric keys of an evaluator, a metric or a list of metrics, or their configs."""
    results, metrics = Results(), evaluator
    if isinstance(evaluator, Mapping) and "metrics" in evaluator:
        metrics = evaluator["metrics"]
        kind = _kind(EVALUATOR, evaluator.get("type", "Evaluator"))
        if issubclass(kind, MultiTaskEvaluator):
            for task in build_tasks(evaluator["tasks"]).values():
                _add(results, task.metric(), meta)
            results.keys.update(kind.directions)
            if not evaluator.get("reference"):
                results.missing["delta"] = "there are no reference scores"
        if not _is_known(kind):
            results.open.add(None)
    for metric in metrics if isinstance(metrics, (list, tuple)) else [metrics]:
        _add(results, metric, meta)
    return results


def _kind(registry: Any, kind: Any) -> Any:
    """Return the class that a config names, or NoneType."""
    kind = registry.get(kind) if isinstance(kind, str) else kind
    return kind if inspect.isclass(kind) else type(None)


def _add(results: Results, metric: Any, meta: Mapping[str, Any]) -> None:
    """Add the keys of one metric or metric config; None adds nothing."""
    kind, prefix = type(metric), getattr(metric, "prefix", None)
    if isinstance(metric, Mapping):
        kind = _kind(METRICS, metric.get("type"))
        prefix = metric.get("prefix") or metric.get("task") or getattr(kind, "default_prefix", None)
        if issubclass(kind, TaskMetric):
            metric = METRICS.build(dict(metric))  # builds no other component
    if metric is None or issubclass(kind, DumpResults):  # it only writes a file
        return
    declared = getattr(kind, "directions", None)
    if isinstance(metric, TaskMetric):
        prefix, declared = metric.prefix, metric.declare(meta.get(metric.task) or {})
    start = f"{prefix}/" if prefix else ""
    results.keys.update({f"{start}{name}": way for name, way in (declared or {}).items()})
    if declared is None or not _is_known(kind):
        results.open.add(prefix)


def _is_known(kind: Any) -> bool:
    """Whether a class is built-in; user classes may write more than their ``directions``."""
    return kind.__module__.split(".")[0] in ("vmt_mm", "mmengine", "mmseg")
