"""Which results an evaluator writes, and which way each of them is better.

Metrics declare it (:class:`~vmt_mm.evaluation.task_metric.TaskMetric`); this asks the metrics of an
evaluator's config, before anything is run.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any

from mmengine.evaluator import BaseMetric, DumpResults

from vmt_mm.evaluation.evaluator import MultiTaskEvaluator
from vmt_mm.evaluation.task_metric import Direction, TaskMetric, is_of_class
from vmt_mm.registry import EVALUATOR, METRICS
from vmt_mm.tasks import Task, build_tasks

#: Where a class says what it writes; one that overrides them below its declaration may write more.
_WRITING = ("compute_metrics", "reduce", "reduce_classes", "evaluate")


@dataclass
class Results:
    """What an evaluator writes.

    Attributes:
        keys: key -> which way it is better, in the order of the results.
        missing: declared keys that this evaluator will not write -> why, in words.
        open: prefixes below which metrics that declare nothing may write any key; None stands for
            keys without a prefix.
    """

    keys: dict[str, Direction] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)
    open: set[str | None] = field(default_factory=set)

    def may_have(self, key: str) -> bool:
        """Whether a validation may have this key."""
        prefixes = {key[:place] for place, char in enumerate(key) if char == "/"}
        return (
            key in self.keys
            or (key == "auto" and bool(self.open))
            or None in self.open
            or bool(prefixes & self.open)
        )

    def direction(self, key: str) -> Direction:
        """Which way a key is better; None where it is not a quality or not declared."""
        return self.keys.get(key)

    def qualities(self) -> list[str]:
        """The keys by which one can choose, those of single classes last."""
        known = [k for k, way in self.keys.items() if way and k not in self.missing]
        return sorted(known, key=is_of_class)

    def nearest(self, key: str) -> str:
        """The quality that was most likely meant, or the first; empty if there is none."""
        known = self.qualities()
        task, _, name = key.partition("/")
        own = [k for k in known if k.startswith(f"{task}/")]
        if not name:  # as in mmseg, where results have no prefix
            near = [k for k in known if k.split("/")[-1].lower() == key.lower()]
        elif own:
            names = [k.partition("/")[2] for k in own]
            near = [f"{task}/{n}" for n in get_close_matches(name, names, 1, 0.5)]
            near = [] if key in self.keys else near  # a count: the task's main result instead
        else:
            near = get_close_matches(key, known, 1, 0.5)
        return next(iter([*near, *own, *known]), "")


def results_of(evaluator: Any, meta: Mapping[str, Any]) -> Results:
    """What an evaluator writes.

    Args:
        evaluator: its config, as mmengine's runner takes it: an evaluator with ``metrics``, or one
            metric, or a list of metrics.
        meta: the dataset's metainfo, by task.
    """
    results = Results()
    if not isinstance(evaluator, Mapping) or "metrics" not in evaluator:
        for metric in _listed(evaluator):
            _add_metric(results, metric, meta)
        return results
    kind = _kind(EVALUATOR, evaluator.get("type", "Evaluator"))
    if inspect.isclass(kind) and issubclass(kind, MultiTaskEvaluator):
        for task in build_tasks(evaluator["tasks"]).values():
            _add_task(results, task, meta)
        results.keys.update(kind.directions)
        if not evaluator.get("reference"):
            results.missing["delta"] = "there are no reference scores"
        if _writes_more(kind, MultiTaskEvaluator):
            results.open.add(None)
    elif kind is None or kind.__module__.split(".")[0] != "mmengine":
        results.open.add(None)  # of the user's own: it may add anything
    for metric in _listed(evaluator["metrics"]):
        _add_metric(results, metric, meta)
    return results


def _listed(metrics: Any) -> Sequence[Any]:
    if metrics is None:
        return ()
    return metrics if isinstance(metrics, (list, tuple)) else [metrics]


def _kind(registry: Any, kind: Any) -> Any:
    return registry.get(kind) if isinstance(kind, str) else kind


def _add_task(results: Results, task: Task, meta: Mapping[str, Any]) -> None:
    if cfg := task.metric():
        _add_metric(results, cfg, meta)


def _add_metric(results: Results, metric: Any, meta: Mapping[str, Any]) -> None:
    """Add what one metric, or the config of one, writes."""
    if isinstance(metric, Mapping):
        kind = _kind(METRICS, metric.get("type"))
        if inspect.isclass(kind) and issubclass(kind, TaskMetric):
            metric = METRICS.build(dict(metric))  # builds nothing but itself
        prefix = metric.get("prefix") or metric.get("task") if isinstance(metric, Mapping) else None
        prefix = prefix or getattr(kind, "default_prefix", None)
    else:
        kind, prefix = type(metric), None
    if isinstance(metric, BaseMetric):
        prefix = metric.prefix
    if inspect.isclass(kind) and issubclass(kind, DumpResults):
        return  # writes a file alone
    if isinstance(metric, TaskMetric):
        declared = metric.declare(meta.get(metric.task) or {})
    else:
        declared = getattr(kind, "directions", None)
    start = f"{prefix}/" if prefix else ""
    results.keys.update({f"{start}{name}": way for name, way in (declared or {}).items()})
    if declared is None or _writes_more(kind, TaskMetric):
        results.open.add(prefix)


def _writes_more(kind: Any, base: type) -> bool:
    """Whether a subclass writes results of its own without a declaration of its own."""
    for owner in kind.__mro__:
        if "directions" in vars(owner) or "declare" in vars(owner) or owner is base:
            return False
        if any(name in vars(owner) for name in _WRITING):
            return True
    return False
