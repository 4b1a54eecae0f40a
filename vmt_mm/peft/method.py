"""The contract between a PEFT method and a frozen backbone.

Letters: B images, L tokens, d channels of a block, T tasks.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from mmengine.model import BaseModule
from torch import Tensor, nn

from vmt_mm.errors import InputError
from vmt_mm.registry import PEFT_METHODS

_OF_BLOCK = re.compile(r"^blocks\.(\d+)\.")


@dataclass(frozen=True)
class BlockSpec:
    """One transformer block.

    ``layers`` gives the full name of a module or parameter by its role: ``qkv`` (d -> 3 d, queries
    first), ``proj``, ``fc1``, ``fc2``, ``norm1``, ``norm2``, ``relative_position_table``.
    """

    stage: int
    channels: int
    name: str = ""
    layers: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, stage: int, channels: int, name: str, **layers: str) -> BlockSpec:
        """A block from the names of its layers within it."""
        return cls(stage, channels, name, {r: f"{name}.{x}" for r, x in layers.items()})


class Backbone(BaseModule):
    """What a method may ask of a backbone, besides a module's own: its blocks and its tasks."""

    blocks: tuple[BlockSpec, ...]
    task_names: tuple[str, ...]


class SideOutput(NamedTuple):
    """What a method computes in parallel to the MLP of one block, (B, L, d).

    ``scale * residual`` is added to the residual stream. ``task_feature`` is kept for
    :meth:`PEFTMethod.task_features`; it never enters the stream, so one pass serves all tasks.
    """

    residual: Tensor | None = None
    task_feature: Tensor | None = None
    scale: Tensor | float = 1.0


class PEFTMethod(nn.Module):
    """A way to adapt a frozen backbone; this base adapts nothing.

    The backbone freezes all its parameters, then calls :meth:`attach` in its ``__init__``; later no
    parameter appears and no ``requires_grad`` changes, as DDP and optimizers need. Once the frozen
    weights are loaded, it calls :meth:`reset_from_pretrained`, and never again after a resume.

    A subclass creates its parameters as its own (keys ``peft.<...>``) or in wrapped leaf layers, or
    unfreezes the backbone's. It keeps no state between calls and does not write into its inputs.
    Modules per block are ``self.blocks``. Parameters of one task are entries of a ``ParameterDict``
    or ``ModuleDict`` whose keys are the tasks, so that tasks can be added, removed and renamed.

    With ``per_task_forward`` the backbone runs once per task, with :meth:`parameters_for` that task
    in place; otherwise one pass serves all tasks. With ``counts_output_norms`` trainable output
    norms count as the backbone's, as the paper counts BitFit's, and not separately.
    """

    per_task_forward: bool = False
    counts_output_norms: bool = False
    blocks: Any  # an nn.ModuleList, whose items torch gives no type

    def attach(self, backbone: Backbone) -> None:
        """Create all parameters and set ``requires_grad``."""

    def reset_from_pretrained(self, backbone: Backbone) -> None:
        """Set the initial values of the method's parameters."""

    def parameters_for(self, task: str) -> dict[str, Tensor]:
        """With ``per_task_forward``: key in the backbone -> tensor used in its place for ``task``.

        The keys are the same for every task. Each of the method's own (``peft.<...>``) must belong
        to a block, see :meth:`block_of`, and be used only in :meth:`after_attn`,
        :meth:`parallel_to_mlp` and :meth:`after_mlp`: in training, only these run per task.
        """
        return {}

    def block_of(self, key: str) -> int | None:
        """Index of the block of one of the method's own parameters: ``blocks.<index>.<...>``."""
        own = _OF_BLOCK.match(key)
        return int(own[1]) if own else None

    def original_name(self, key: str) -> str:
        """Name of the parameter that ``key`` is a per-task copy of; ``key`` itself if none."""
        return key

    def after_attn(self, index: int, out: Tensor) -> Tensor:
        """Turn the attention's output (B, L, d) into what is added to the stream."""
        return out

    def parallel_to_mlp(self, index: int, y: Tensor) -> SideOutput:
        """Run in parallel to the MLP of block ``index``, on its input y (B, L, d)."""
        return SideOutput()

    def after_mlp(self, index: int, out: Tensor) -> Tensor:
        """Turn the MLP's output (B, L, d) into what is added to the stream."""
        return out

    def task_features(
        self, stage: int, feature: Tensor, kept: Sequence[Any], tasks: Sequence[str]
    ) -> dict[str, Tensor]:
        """Turn the output ``feature`` (B, L, d) of a stage's norm into the features of every task.

        ``kept`` holds ``SideOutput.task_feature`` of the stage's blocks. Gives task name -> (B, L,
        d), for the tasks that are asked for.
        """
        return dict.fromkeys(tasks, feature)


def task_embeddings(backbone: Backbone, length: int) -> nn.ParameterDict:
    """One embedding (E,) per task, from which hypernetworks generate parameters."""
    return nn.ParameterDict({t: nn.Parameter(torch.empty(length)) for t in backbone.task_names})


def build_method(cfg: Mapping | None) -> PEFTMethod:
    """Build a PEFT method; ``None`` adapts nothing, an unknown type is an InputError."""
    if cfg is None:
        return PEFTMethod()
    if not isinstance(cfg, Mapping):
        raise InputError(f"peft must be a dictionary such as dict(type='VMTAdapter'), got {cfg!r}")
    kind = cfg.get("type")
    if kind is None or (isinstance(kind, str) and PEFT_METHODS.get(kind) is None):
        known = ", ".join(sorted(PEFT_METHODS.module_dict))
        raise InputError(f"peft: unknown type {kind!r}; known: {known}")
    return PEFT_METHODS.build(dict(cfg))


def layer_names(method: str, backbone: Backbone, role: str) -> list[str]:
    """Full names of the layers of one role in every block; an InputError if one has none."""
    for block in backbone.blocks:
        if role not in block.layers:
            known = sorted(block.layers)
            raise InputError(f"{method}: the backbone's blocks have no {role!r}, only {known}")
    return [block.layers[role] for block in backbone.blocks]
