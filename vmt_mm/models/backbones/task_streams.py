"""Streams of a backbone call: one until the parameters of tasks differ, then one per task.

Notation: B images, L tokens, d channels, T tasks.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from vmt_mm.checkpoints.keys import PEFT
from vmt_mm.peft import PEFTMethod, SideOutput, TokenGrid
from vmt_mm.peft.parameter_swap import call_with


class PerTaskCall:
    """Call a hook of the method once on the batch, or, with ``of_tasks``, per task slice."""

    def __init__(self, of_tasks: Sequence[Callable[..., Any]] = ()) -> None:
        self._of_tasks = of_tasks

    def __call__(self, function: Callable[[Tensor], Any], x: Tensor) -> Any:
        """Return ``function(x)``, a tensor or ``SideOutput``, for x (B, L, d) or (T B, L, d)."""
        if not self._of_tasks:
            return function(x)
        parts = x.chunk(len(self._of_tasks))
        results = [call(function, part) for call, part in zip(self._of_tasks, parts, strict=True)]
        if isinstance(results[0], SideOutput):
            residuals, features, scales = zip(*results, strict=True)
            if residuals[0] is not None:  # scales may differ between tasks
                residuals = [s * x for s, x in zip(scales, residuals, strict=True)]
            return SideOutput(_join(residuals), _join(features))
        if all(result is part for result, part in zip(results, parts, strict=True)):
            return x  # the hook returns its input
        return torch.cat(results)


def _join(parts: Sequence[Tensor | None]) -> Tensor | None:
    given = [x for x in parts if x is not None]
    return torch.cat(given) if given else None


@dataclass
class Stream:
    """Tokens ``x`` of one pass for ``tasks``; ``kept`` has the task features of the stage so far.

    If ``joined``, the batch contains the images once per task, task by task: (T B, L, d).
    """

    tasks: tuple[str, ...]
    x: Tensor
    kept: list[Tensor | None] = field(default_factory=list)
    joined: bool = False

    def join(self) -> None:
        """Repeat the batch once per task, before the tasks differ."""
        if not self.joined:
            count = len(self.tasks)
            self.x = self.x.repeat(count, 1, 1)
            self.kept = [x if x is None else x.repeat(count, 1, 1) for x in self.kept]
            self.joined = True

    def split(self) -> list[Stream]:
        """Return one stream per task."""
        count = len(self.tasks)
        parts = [
            x.chunk(count) if self.joined and x is not None else [x] * count
            for x in (self.x, *self.kept)
        ]
        rows = zip(self.tasks, *parts, strict=True)
        return [Stream((task,), x, list(kept)) for task, x, *kept in rows]


class TaskStreams:
    """The streams of one call of the backbone.

    All tasks share one stream up to the first part whose parameters differ between tasks
    (``part_of``: key -> its part); then each task has its own. With ``join``, if only parameters of
    the method differ, tasks stay in one batch (T B, L, d), and only the method runs per task; this
    is for training only, since batching may change the rounding.
    """

    def __init__(
        self, backbone: Any, part_of: Mapping[str, str], tasks: Sequence[str], x: Tensor, join: bool
    ) -> None:
        self._backbone, self._join = backbone, join
        self._method: PEFTMethod = backbone.peft
        self._streams = [Stream(tuple(tasks), x)]
        #: part -> task -> key -> tensor
        self._parameters: dict[str, dict[str, dict[str, Tensor]]] = {}
        if self._method.per_task_forward:
            for task in tasks:
                for key, value in self._method.parameters_for(task).items():
                    self._parameters.setdefault(part_of[key], {}).setdefault(task, {})[key] = value

    def apply(self, part: str, function: Callable[[Tensor], Tensor]) -> None:
        """Run one part of the backbone on every stream: ``x = function(x)``."""
        for stream, call in self._calls(part):
            stream.x = call(function, stream.x)

    def block(
        self,
        part: str,
        function: Callable[[PerTaskCall, Tensor], tuple[Tensor, Tensor | None]],
        recompute: bool = False,
    ) -> None:
        """Run a block on every stream: ``function(call, x)`` returns x and the task feature.

        ``call`` calls hooks of the method; ``recompute`` keeps no activations for the backward.
        """
        first, parameters = self._streams[0], self._parameters.get(part, {})
        of_method = all(key.startswith(PEFT) for of_task in parameters.values() for key in of_task)
        together = len(self._streams) == 1 and len(parameters) > 1
        if self._join and together and of_method and not recompute:
            first.join()
            calls = [partial(call_with, self._backbone, values) for values in parameters.values()]
            first.x, feature = function(PerTaskCall(calls), first.x)
            first.kept.append(feature)
            return
        for stream, run in self._calls(part):
            if recompute:  # around the swap: inside it, gradients would be wrong
                run = partial(checkpoint, run, use_reentrant=False)
            stream.x, feature = cast("tuple", run(function, PerTaskCall(), stream.x))
            stream.kept.append(feature)

    def end_stage(
        self, part: str, norm: Callable[[Tensor], Tensor], stage: int, grid: TokenGrid
    ) -> dict[str, Tensor]:
        """Return the features (B, height width, d) of every task at the end of a stage.

        ``norm`` is the function of the part. Class and register tokens are removed.
        """
        features, prefix, patches = {}, grid.prefix, TokenGrid(grid.height, grid.width)
        for stream, call in self._calls(part):
            done = Stream(stream.tasks, call(norm, stream.x), stream.kept, stream.joined)
            for own in done.split() if done.joined else [done]:
                kept = [x if x is None else x[:, prefix:] for x in own.kept]
                x = own.x[:, prefix:]
                features.update(self._method.task_features(stage, x, kept, own.tasks, patches))
            stream.kept = []
        return features

    def _calls(self, part: str) -> list[tuple[Stream, Callable[..., Any]]]:
        """Return pairs of a stream and ``call``: ``call(f, *args)`` runs f with its parameters.

        These are the per-task parameters of the part; without any, ``call`` only calls f.
        """
        parameters = self._parameters.get(part, {})
        if parameters:
            self._streams = [own for stream in self._streams for own in stream.split()]
        of_streams = [parameters.get(stream.tasks[0], {}) for stream in self._streams]
        calls = [partial(call_with, self._backbone, values) for values in of_streams]
        return list(zip(self._streams, calls, strict=True))
