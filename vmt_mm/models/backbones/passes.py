"""Run an encoder's parts for all tasks: in one stream while tasks agree, then in one a task.

Letters: B images, L tokens, d channels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from torch import Tensor
from torch.utils.checkpoint import checkpoint

from vmt_mm.peft import BlockSpec, PEFTMethod
from vmt_mm.peft.substitution import Substitution

Result = TypeVar("Result")
_OF_METHOD = "peft."


@dataclass
class Stream:
    """What one pass through the encoder carries.

    Attributes:
        tasks: the tasks that it serves.
        x: what the next part reads, (B, L, d) between blocks.
        kept: ``Branch.for_decoders`` of the stage's blocks.
    """

    tasks: tuple[str, ...]
    x: Tensor
    kept: list[Tensor | None] = field(default_factory=list)


def part_of(key: str, parts: Sequence[str], blocks: Sequence[BlockSpec], method: PEFTMethod) -> str:
    """The part of the encoder that reads a parameter.

    Args:
        key: of the parameter.
        parts: names of the modules that are run as one.
        blocks: the blocks, to which the method's own modules belong.
        method: the method, which knows to which.

    Raises:
        KeyError: if no part reads it.
    """
    if key.startswith(_OF_METHOD):
        index = method.block_of(key.removeprefix(_OF_METHOD))
        if index is not None:
            return blocks[index].name
    for part in parts:
        if key.startswith(f"{part}."):
            return part
    raise KeyError(f"{key} belongs to none of {list(parts)}")


class TaskPasses:
    """The streams of one call of the encoder.

    Where a part has other parameters for each task, the stream splits before it; so what lies
    before the first difference is computed once.

    Args:
        method: the PEFT method.
        substitution: of the encoder.
        place: key of a parameter -> the part that reads it.
        tasks: the tasks wanted.
        x: what the first part reads.
    """

    def __init__(
        self,
        method: PEFTMethod,
        substitution: Substitution,
        place: Mapping[str, str],
        tasks: Sequence[str],
        x: Tensor,
    ) -> None:
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
            self.streams = [
                Stream((task,), stream.x, list(stream.kept))
                for stream in self.streams
                for task in stream.tasks
            ]
        for stream in self.streams:
            own = parameters.get(stream.tasks[0], {})
            if recompute:  # around the substitution: within it, the gradients would be wrong
                result = checkpoint(
                    self._substitution.run, own, function, stream.x, use_reentrant=False
                )
            else:
                result = self._substitution.run(own, function, stream.x)
            yield stream, result
