"""Run an encoder's parts for all tasks: in one stream while tasks agree, then in one a task.

Letters: B images, L tokens, d channels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TypeVar

from torch import Tensor
from torch.utils.checkpoint import checkpoint

from vmt_mm.models.backbones.hooks import Hooks
from vmt_mm.peft import BlockSpec, PEFTMethod
from vmt_mm.peft.parameter_swap import ParameterSwap

Result = TypeVar("Result")
_OF_METHOD = "peft."


@dataclass
class Stream:
    """What one pass through the encoder carries.

    Attributes:
        tasks: the tasks that it serves.
        x: what the next part reads, (B, L, d) between blocks; (T B, L, d) where it is joined.
        kept: ``Branch.for_decoders`` of the stage's blocks.
        joined: the tasks differ already; their images lie one task after the other in ``x``.
    """

    tasks: tuple[str, ...]
    x: Tensor
    kept: list[Tensor | None] = field(default_factory=list)
    joined: bool = False

    def join(self) -> None:
        """Give every task images of its own, before the tasks begin to differ."""
        if not self.joined:
            self.x, self.kept = self._repeat(self.x), [self._repeat(x) for x in self.kept]
            self.joined = True

    def split(self) -> Iterator[Stream]:
        """A stream for each task."""
        count = len(self.tasks)
        parts = [
            x.chunk(count) if self.joined and x is not None else [x] * count
            for x in (self.x, *self.kept)
        ]
        for task, x, *kept in zip(self.tasks, *parts, strict=True):
            yield Stream((task,), x, list(kept))

    def served(self, feature: Tensor) -> Iterator[tuple[tuple[str, ...], Tensor, list]]:
        """Tasks that have the same of a feature, what they have, and what was kept for them."""
        if not self.joined:
            yield self.tasks, feature, self.kept
            return
        for own in Stream(self.tasks, feature, self.kept, joined=True).split():
            yield own.tasks, own.x, own.kept

    def _repeat(self, x: Tensor | None) -> Tensor | None:
        return None if x is None else x.repeat(len(self.tasks), 1, 1)


def part_of(
    key: str, parts: Mapping[str, str], blocks: Sequence[BlockSpec], method: PEFTMethod
) -> str:
    """The part of the encoder that reads a parameter.

    Args:
        key: of the parameter.
        parts: name of a module or of a parameter outside modules -> the part that it is run in.
        blocks: the blocks, to which the method's own modules belong.
        method: the method, which knows to which.

    Raises:
        KeyError: if no part reads it.
    """
    if key.startswith(_OF_METHOD):
        index = method.block_of(key.removeprefix(_OF_METHOD))
        if index is not None:
            return blocks[index].name
    for name, part in parts.items():
        if key == name or key.startswith(f"{name}."):
            return part
    raise KeyError(f"{key} belongs to none of {list(parts)}")


class TaskStreams:
    """The streams of one call of the encoder.

    What lies before the first part that has other parameters for each task is computed once. From
    there on every task has a stream of its own. In training, where all these parameters belong to
    the method's own modules, the tasks' images go through the frozen layers in one batch instead,
    and task by task through the method alone. Not so in prediction: a batch's size may change the
    rounding, and a task's result must not depend on which others are asked for.

    Args:
        method: the PEFT method.
        substitution: of the encoder.
        place: key of a parameter -> the part that reads it.
        tasks: the tasks wanted.
        x: what the first part reads.
        join: take tasks that differ through in one batch, where their parameters allow it.
    """

    def __init__(
        self,
        method: PEFTMethod,
        substitution: ParameterSwap,
        place: Mapping[str, str],
        tasks: Sequence[str],
        x: Tensor,
        join: bool = False,
    ) -> None:
        self._join = join
        self.streams = [Stream(tuple(tasks), x)]
        self._substitution = substitution
        #: part -> task -> key -> tensor
        self._parameters: dict[str, dict[str, dict[str, Tensor]]] = {}
        if method.passes == "per_task":
            for task in tasks:
                for key, value in method.parameters_for(task).items():
                    of_part = self._parameters.setdefault(place[key], {})
                    of_part.setdefault(task, {})[key] = value

    def through(
        self, part: str, function: Callable[[Tensor], Result], recompute: bool = False
    ) -> Iterator[tuple[Stream, Result]]:
        """Run one part of the encoder on every stream.

        Args:
            part: name of the part.
            function: what it does with a stream's x.
            recompute: keep no activations, compute them anew in the backward pass.

        Yields:
            The stream, whose x is still what the part has read, and the part's result.
        """
        parameters = self._parameters.get(part, {})
        if parameters:
            self.streams = [own for stream in self.streams for own in stream.split()]
        for stream in self.streams:
            own = parameters.get(stream.tasks[0], {})
            if recompute:  # around the substitution: within it, the gradients would be wrong
                result = checkpoint(
                    self._substitution.run, own, function, stream.x, use_reentrant=False
                )
            else:
                result = self._substitution.run(own, function, stream.x)
            yield stream, result

    def through_block(
        self, part: str, function: Callable[[Hooks, Tensor], Result], recompute: bool = False
    ) -> Iterator[tuple[Stream, Result]]:
        """Run a block on every stream.

        Args:
            part: name of the block.
            function: what it does with a stream's x; it calls the method through the hooks that it
                is given.
            recompute: see :meth:`through`.

        Yields:
            As :meth:`through`.
        """
        parameters = self._parameters.get(part, {})
        stream = self.streams[0]
        if recompute or not (len(self.streams) == 1 and self._may_join(stream, parameters)):
            yield from self.through(part, partial(function, Hooks()), recompute)
            return
        stream.join()
        calls = [partial(self._substitution.run, parameters[task]) for task in stream.tasks]
        yield stream, function(Hooks(calls), stream.x)

    def _may_join(self, stream: Stream, parameters: Mapping[str, Mapping[str, Tensor]]) -> bool:
        several = len(stream.tasks) > 1 and bool(parameters)
        own = all(key.startswith(_OF_METHOD) for of_task in parameters.values() for key in of_task)
        return self._join and several and own

    def finish(
        self, part: str, norm: Callable[[Tensor], Tensor]
    ) -> Iterator[tuple[tuple[str, ...], Tensor, list[Tensor | None]]]:
        """Run the norm at the end of a stage, whose blocks keep nothing from then on.

        Args:
            part: name of the norm.
            norm: what gives the stage's output (B, L, d).

        Yields:
            Tasks, their feature (B, L, d), and what the stage's blocks kept for them.
        """
        for stream, feature in self.through(part, norm):
            yield from stream.served(feature)
            stream.kept = []
