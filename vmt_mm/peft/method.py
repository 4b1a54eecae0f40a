"""The contract between a PEFT method and a frozen encoder.

Letters: B images, L tokens, d channels of a block, T tasks.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, Protocol

from torch import Tensor, nn

from vmt_mm.errors import InputError
from vmt_mm.registry import PEFT_METHODS

_OF_BLOCK = re.compile(r"^blocks\.(\d+)\.")


@dataclass(frozen=True)
class BlockSpec:
    """One transformer block.

    Attributes:
        stage: the stage that it belongs to.
        channels: d.
        name: of its module in the encoder.
        layers: role -> full name of the module or parameter that plays it. Roles: ``qkv`` (d ->
            3 d, queries first), ``proj``, ``fc1``, ``fc2``, ``norm1``, ``norm2``, and
            ``relative_position_table`` where the architecture has one.
    """

    stage: int
    channels: int
    name: str = ""
    layers: Mapping[str, str] = field(default_factory=dict)


class Encoder(Protocol):
    """What a method may ask of an encoder, whatever its architecture.

    Attributes:
        blocks: every block, in order.
        task_names: the tasks that the encoder gives features for.
    """

    blocks: tuple[BlockSpec, ...]
    task_names: tuple[str, ...]

    def requires_grad_(self, requires_grad: bool = True) -> nn.Module:
        """Freeze or unfreeze all parameters."""

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Every parameter, the method's own under ``peft.``."""

    def get_submodule(self, target: str) -> nn.Module:
        """A module by its full name."""


class Branch(NamedTuple):
    """What a method computes beside one block.

    Attributes:
        stream: (B, L, d), added to the encoder's stream; None adds nothing.
        for_decoders: (B, L, d), kept for :meth:`PEFTMethod.for_decoders`; it never enters the
            stream, so the encoder runs once however many tasks there are.
        gain: factor of ``stream`` on its way into the encoder's; a number costs nothing.
    """

    stream: Tensor | None = None
    for_decoders: Tensor | None = None
    gain: Tensor | float = 1.0


class PEFTMethod(nn.Module):
    """A way to adapt a frozen encoder; this base adapts nothing.

    The encoder freezes all its parameters, then calls :meth:`attach` in its own ``__init__``.
    After that no parameter appears and no ``requires_grad`` changes, since distributed wrappers
    and optimizers are built from then on. Once the frozen weights are loaded, the encoder calls
    :meth:`reset_from_pretrained`, and never again after a resume.

    A subclass creates its parameters as its own (their keys begin with ``peft.``) or in wrapped
    leaf layers, or unfreezes the encoder's, and overrides the methods it needs. It must keep no
    state between calls, and not write into what it is given. Where it has a module per block, they
    are ``self.blocks``, one an entry of ``encoder.blocks``. What belongs to one task alone is an
    entry of a ``ParameterDict`` or ``ModuleDict`` whose keys are the tasks: so tasks can be added,
    removed and renamed later, see :func:`vmt_mm.checkpoints.keys.task_of_keys`.

    Attributes:
        passes: ``'shared'``: one pass through the encoder serves all tasks. ``'per_task'``: one a
            task, with :meth:`parameters_for` that task in the parameters' places.
        counts_output_norms: whether what trains of the four output norms counts as the encoder's
            (as the paper counts BitFit's) and not apart.
    """

    passes: Literal["shared", "per_task"] = "shared"
    counts_output_norms: bool = False

    def attach(self, encoder: Encoder) -> None:
        """Create all parameters and set ``requires_grad``; ``encoder.blocks`` says for what."""

    def reset_from_pretrained(self, encoder: Encoder) -> None:
        """Set the initial values of the method's parameters."""

    def parameters_for(self, task: str) -> dict[str, Tensor]:
        """The parameters with which the encoder runs for ``task``, where ``passes`` is per task.

        Returns:
            Key in the encoder -> tensor that takes this parameter's place during the pass, the same
            keys for every task. The method's own (``peft.<...>``) must each belong to a block, see
            :meth:`block_of`, and be read in :meth:`after_attn`, :meth:`parallel_to_mlp` and
            :meth:`after_mlp` alone: in training, only these run task by task.
        """
        return {}

    def block_of(self, key: str) -> int | None:
        """Index of the block that one of the method's own parameters belongs to, by its key here.

        That is the number in ``blocks.<index>.<...>``; None for parameters that belong to none.
        """
        own = _OF_BLOCK.match(key)
        return int(own[1]) if own else None

    def original_name(self, key: str) -> str:
        """Name of the parameter that one of the method's own is a copy of; its own elsewhere."""
        return key

    def parallel_to_mlp(self, index: int, y: Tensor) -> Branch:
        """Run in parallel to the MLP of a block.

        Args:
            index: of the block in ``encoder.blocks``.
            y: (B, L, d), the residual stream that the MLP's norm also reads.
        """
        return Branch()

    def after_attn(self, index: int, out: Tensor) -> Tensor:
        """Turn the attention's output (B, L, d) into what is added to the stream."""
        return out

    def after_mlp(self, index: int, out: Tensor) -> Tensor:
        """Turn the MLP's output (B, L, d) into what is added to the stream."""
        return out

    def for_decoders(
        self,
        stage: int,
        feature: Tensor,
        kept: Sequence[Tensor | None],
        tasks: Sequence[str],
    ) -> dict[str, Tensor]:
        """Turn a stage's output into every task's features.

        Args:
            stage: index of the stage.
            feature: (B, L, d), the stage's output after its norm.
            kept: ``Branch.for_decoders`` of the stage's blocks.
            tasks: names of the tasks that are asked for.

        Returns:
            Task name -> (B, L, d).
        """
        return dict.fromkeys(tasks, feature)


def build_method(cfg: dict | None) -> PEFTMethod:
    """Build a PEFT method; ``None`` adapts nothing.

    Raises:
        InputError: if the type is unknown.
    """
    if cfg is None:
        return PEFTMethod()
    if not isinstance(cfg, Mapping):
        raise InputError(f"peft must be a dictionary such as dict(type='VMTAdapter'), got {cfg!r}")
    kind = cfg.get("type")
    if kind is None or (isinstance(kind, str) and PEFT_METHODS.get(kind) is None):
        known = ", ".join(sorted(PEFT_METHODS.module_dict))
        raise InputError(f"peft: unknown type {kind!r}; known: {known}")
    return PEFT_METHODS.build(dict(cfg))


def layer_names(method: str, encoder: Encoder, role: str) -> list[str]:
    """Full names of what plays a role in every block.

    Raises:
        InputError: if a block has nothing of that role.
    """
    for block in encoder.blocks:
        if role not in block.layers:
            raise InputError(
                f"{method}: the encoder's blocks have no {role!r}, only {sorted(block.layers)}"
            )
    return [block.layers[role] for block in encoder.blocks]
