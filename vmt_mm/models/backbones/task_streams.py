"""Streams of a backbone call: one until parameters of tasks differ, then one per group of tasks.

Notation: B images, L tokens, d channels, G groups of tasks.
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
    """Call a hook of the method once on the batch, or, with ``of_groups``, per group's slice."""

    def __init__(self, of_groups: Sequence[Callable[..., Any]] = ()) -> None:
        self._of_groups = of_groups

    def __call__(self, function: Callable[[Tensor], Any], x: Tensor) -> Any:
        """Return ``function(x)``, a tensor or ``SideOutput``, for x (B, L, d) or (G B, L, d)."""
        if not self._of_groups:
            return function(x)
        parts = x.chunk(len(self._of_groups))
        results = [call(function, part) for call, part in zip(self._of_groups, parts, strict=True)]
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
    """Tokens ``x`` (G B, L, d) of one pass: the B images of each of G groups of tasks in turn.

    Tasks of a group had the same parameters so far. ``kept`` has the task features of the stage,
    ``tails`` (T B, L, d) the streams of the tasks in its last block, see :meth:`PEFTMethod.tails`.
    """

    groups: list[tuple[str, ...]]
    x: Tensor
    kept: list[Tensor | None] = field(default_factory=list)
    tails: Tensor | None = None

    def split(self, parameters: Mapping[str, Mapping[str, Tensor]]) -> list[Stream]:
        """Return a stream per set of tasks with the same ``parameters`` (task -> key -> tensor)."""
        count = len(self.groups)
        parts = [
            # not chunk, whose sizes an exported model would fix
            x.reshape(count, -1, *x.shape[1:]) if count > 1 and x is not None else [x] * count
            for x in (self.x, *self.kept)
        ]
        return [
            Stream([alike], x, list(kept))
            for group, x, *kept in zip(self.groups, *parts, strict=True)
            for alike in _alike(group, parameters)
        ]


def _alike(
    tasks: Sequence[str], parameters: Mapping[str, Mapping[str, Tensor]]
) -> list[tuple[str, ...]]:
    """Divide tasks into those with the same tensors."""
    found: list[list[str]] = []
    for task in tasks:
        own = parameters.get(task, {})
        for same in found:
            if all(parameters[same[0]][key] is value for key, value in own.items()):
                same.append(task)
                break
        else:
            found.append([task])
    return [tuple(same) for same in found]


class TaskStreams:
    """The streams of one call of the backbone.

    All tasks share one stream up to the first part whose parameters differ between tasks
    (``part_of``: key -> its part); then each group of tasks with the same ones has its own. With
    ``join``, if only parameters of the method differ, groups stay in one batch (G B, L, d), and
    only the method runs per group; this is for training only, as batching may change the rounding.
    """

    def __init__(
        self, backbone: Any, part_of: Mapping[str, str], tasks: Sequence[str], x: Tensor, join: bool
    ) -> None:
        self._backbone, self._join, self.tasks = backbone, join, tuple(tasks)
        self._method: PEFTMethod = backbone.peft
        self._streams = [Stream([tuple(tasks)], x)]
        #: part -> task -> key -> tensor
        self._parameters: dict[str, dict[str, dict[str, Tensor]]] = {}
        if self._method.per_task_forward:
            for task in tasks:
                for key, value in self._method.parameters_for(task).items():
                    self._parameters.setdefault(part_of[key], {}).setdefault(task, {})[key] = value

    def apply(self, part: str, function: Callable[[Tensor], Tensor]) -> None:
        """Run one part of the backbone on every stream, and its tails: ``x = function(x)``."""
        for stream, call in self._calls(part):
            stream.x = call(function, stream.x)
            stream.tails = stream.tails if stream.tails is None else call(function, stream.tails)

    def block(
        self,
        part: str,
        function: Callable[[PerTaskCall, Tensor], tuple[Tensor, Tensor | None, Tensor | None]],
        recompute: bool = False,
    ) -> None:
        """Run a block on every stream: ``function(call, x)`` returns x, task feature and tails.

        ``call`` calls hooks of the method; ``recompute`` keeps no activations for the backward.
        """
        parameters = self._parameters.get(part, {})
        of_method = all(key.startswith(PEFT) for own in parameters.values() for key in own)
        first, *others = self._streams
        apart = first.split(parameters)
        if self._join and of_method and not recompute and apart[1:] and parameters and not others:
            if len(apart) > len(first.groups):
                kept = [_join(x) for x in zip(*(own.kept for own in apart), strict=True)]
                x = torch.cat([own.x for own in apart])
                first = self._streams[0] = Stream([own.groups[0] for own in apart], x, kept)
            calls = [partial(call_with, self._backbone, parameters[g[0]]) for g in first.groups]
            first.x, feature, _ = function(PerTaskCall(calls), first.x)
            first.kept.append(feature)
            return
        for stream, run in self._calls(part):
            if recompute:  # around the swap: inside it, gradients would be wrong
                run = partial(checkpoint, run, use_reentrant=False)
            results = cast("tuple", run(function, PerTaskCall(), stream.x))
            stream.x, feature, stream.tails = results
            stream.kept.append(feature)

    def end_stage(
        self, part: str, norm: Callable[[Tensor], Tensor], stage: int, grid: TokenGrid
    ) -> dict[str, Tensor]:
        """Return the features (B, height width, d) of every task at the end of a stage.

        ``norm`` is the function of the part. Class and register tokens are removed.
        """
        features, prefix, patches = {}, grid.prefix, TokenGrid(grid.height, grid.width)
        for stream, call in self._calls(part):
            done = Stream(stream.groups, stream.x, stream.kept)
            if stream.tails is not None:
                done = Stream([(t,) for t in self.tasks], stream.tails, [None for _ in stream.kept])
            done.x = call(norm, done.x)
            for own in done.split({}):
                kept = [x if x is None else x[:, prefix:] for x in own.kept]
                x, tasks = own.x[:, prefix:], own.groups[0]
                features.update(self._method.task_features(stage, x, kept, tasks, patches))
            stream.kept, stream.tails = [], None
        return features

    def _calls(self, part: str) -> list[tuple[Stream, Callable[..., Any]]]:
        """Return pairs of a stream and ``call``: ``call(f, *args)`` runs f with its parameters.

        These are the parameters of the part that differ; without any, ``call`` only calls f.
        """
        parameters = self._parameters.get(part, {})
        if parameters:
            self._streams = [own for stream in self._streams for own in stream.split(parameters)]
        of_streams = [parameters.get(stream.groups[0][0], {}) for stream in self._streams]
        calls = [partial(call_with, self._backbone, values) for values in of_streams]
        return list(zip(self._streams, calls, strict=True))
