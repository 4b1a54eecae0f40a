"""The evaluator of all tasks, and Delta, their mean gain over reference scores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

import numpy as np
from mmengine.evaluator import BaseMetric, Evaluator

from vmt_mm.errors import InputError
from vmt_mm.evaluation.task_metric import Direction
from vmt_mm.registry import EVALUATOR, METRICS, own_scope
from vmt_mm.tasks import Task, build_tasks


def relative_gain(
    scores: Mapping[str, float], reference: Mapping[str, float], tasks: Mapping[str, Task]
) -> float:
    """Delta = (100 / T) sum_t (-1)^{l_t} (M_t - S_t) / S_t, l_t = 1 where lower is better.

    Args:
        scores: task -> M_t.
        reference: task -> S_t, of single-task full fine-tuning in the paper.
        tasks: the tasks, which know what is better.

    Returns:
        Percent.

    Raises:
        InputError: if a task's metric does not declare which way it is better.
    """
    check_directions({name: tasks[name] for name in reference})
    gains = [
        (1 if tasks[t].higher_is_better else -1) * (scores[t] - reference[t]) / reference[t]
        for t in reference
    ]
    return 100 * float(np.mean(gains))


def check_directions(tasks: Mapping[str, Task]) -> None:
    """Raise InputError if the metric of a task does not declare which way the primary is better."""
    for name, task in tasks.items():
        if task.higher_is_better is None:
            kind = (task.metric() or {}).get("type")
            raise InputError(
                f"task {name!r}: {kind} does not declare whether more {task.primary_metric} is "
                f"better; set its directions = dict({task.primary_metric}='greater' or 'less')"
            )


@EVALUATOR.register_module()
class MultiTaskEvaluator(Evaluator):
    """Runs the metric that each task names, and reports ``delta`` where a reference is given.

    Args:
        tasks: name -> task config.
        metrics: further metrics, such as mmengine's ``DumpResults``.
        reference: task -> score of its primary metric, for every task; None reports no Delta.
        collect_device: how processes exchange counts: 'cpu' through files in a folder that all
            nodes see, 'gpu' over the network.

    Raises:
        InputError: if the reference is not for exactly the tasks that have a primary metric, or a
            metric does not declare which way it is better.
    """

    #: Of what this evaluator adds to the metrics' results, see :class:`TaskMetric`.
    directions: ClassVar[Mapping[str, Direction]] = dict(delta="greater")

    def __init__(
        self,
        tasks: Mapping[str, Mapping],
        metrics: Sequence[dict | BaseMetric] = (),
        reference: Mapping[str, float] | None = None,
        collect_device: str = "cpu",
    ) -> None:
        self.tasks = build_tasks(tasks)
        collect = dict(collect_device=collect_device)
        of_tasks = [
            METRICS.build(cfg, default_args=collect)
            for task in self.tasks.values()
            if (cfg := task.metric())
        ]
        with own_scope():
            super().__init__([*of_tasks, *metrics])
        scored = [name for name, task in self.tasks.items() if task.primary_metric]
        self.reference = dict(reference) if reference else None
        if self.reference and (
            set(self.reference) != set(scored)
            or not all(isinstance(v, (int, float)) and v > 0 for v in self.reference.values())
        ):
            raise InputError(
                f"`reference` must give a positive score for each of {scored}: {self.reference}"
            )

        if self.reference:
            check_directions({name: self.tasks[name] for name in scored})

    def evaluate(self, size: int) -> dict[str, float]:
        """Results of all metrics, and ``delta`` where every task of the reference was scored."""
        results = super().evaluate(size)
        keys = {t: f"{t}/{self.tasks[t].primary_metric}" for t in self.reference or ()}
        if keys and all(key in results for key in keys.values()):
            scores = {task: results[key] for task, key in keys.items()}
            results["delta"] = relative_gain(scores, self.reference, self.tasks)
        return results
