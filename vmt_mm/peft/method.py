"""The interface between a PEFT method and a frozen backbone.

Notation: B images, L tokens, d channels of a block, T tasks.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from inspect import signature
from math import isfinite
from typing import Any, NamedTuple

import torch
from mmengine.model import BaseModule
from torch import Tensor, nn

from vmt_mm.errors import InputError
from vmt_mm.registry import PEFT_METHODS
from vmt_mm.utils.feature_maps import Map, SimpleMap

_OF_BLOCK = re.compile(r"^blocks\.(\d+)\.")
#: Groups of a backbone's parameters: ``unfreeze`` names them, a pattern finds them by name.
_GROUPS = dict(
    norm=re.compile(r"(^|\.)(ln\d|\w*norm\w*)\.\w+$"),
    patch_embed=re.compile(r"^patch_embed\."),
    relative_position=re.compile(r"relative_position_bias_table$"),
    reduction=re.compile(r"\.reduction\.\w+$"),
)


@dataclass(frozen=True)
class BlockSpec:
    """Description of one transformer block.

    ``layers`` maps a role to the full names of its modules or parameters, usually one. Roles:
    ``qkv`` (one layer d -> 3 d, queries first, or the layers q, k and v), ``proj``, ``fc1`` (two
    layers, gate and value, in some SwiGLU), ``fc2``, ``norm1``, ``norm2``,
    ``relative_position_table``.
    """

    stage: int
    channels: int
    name: str = ""
    layers: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    @classmethod
    def of(cls, stage: int, channels: int, name: str, **layers: str | tuple[str, ...]) -> BlockSpec:
        """Build the description from layer names relative to the block."""
        several = {r: (x,) if isinstance(x, str) else x for r, x in layers.items()}
        full = {role: tuple(f"{name}.{x}" for x in own) for role, own in several.items()}
        return cls(stage, channels, name, full)


class Backbone(BaseModule):
    """Interface that a method sees of a backbone: a module with blocks and task names.

    ``out_channels`` and ``strides`` are those of the four maps, ``image_channels`` those of the
    images, None if unknown.
    """

    block_specs: tuple[BlockSpec, ...]
    task_names: tuple[str, ...]
    out_channels: tuple[int, ...]
    strides: tuple[int, ...] = (4, 8, 16, 32)
    image_channels: Any


class SideOutput(NamedTuple):
    """What a method adds to the stream of one block, tensors (B, L, d).

    ``scale * residual`` is added to the residual stream. ``task_feature`` is passed to
    :meth:`PEFTMethod.task_features`; it never enters the stream, so one pass serves all tasks.
    """

    residual: Tensor | None = None
    task_feature: Tensor | None = None
    scale: Tensor | float = 1.0


class TokenGrid(NamedTuple):
    """Place of the tokens (B, L, d) that a method gets: L = prefix + height width.

    ``prefix`` class and register tokens stand first, then the patches, row by row. Sizes may be
    symbolic, or tensors while a model is exported: compute with them without branching.
    """

    height: int
    width: int
    prefix: int = 0


class PEFTMethod(nn.Module):
    """Base class of methods that adapt a frozen backbone; the base itself adapts nothing.

    The backbone freezes all its parameters and calls :meth:`attach` in its ``__init__``. Afterwards
    the set of parameters and ``requires_grad`` are fixed, as DDP and optimizers need. The backbone
    calls :meth:`reset_from_pretrained` after loading the frozen weights, but not after a resume.

    A subclass registers parameters on itself (keys ``peft.<...>``) or in wrapped leaf layers, or
    unfreezes parameters of the backbone. It keeps no state between calls and does not modify its
    inputs in place. ``self.blocks`` has one module per block. Per-task parameters are entries of a
    ``ParameterDict`` or ``ModuleDict`` keyed by task, so that tasks can be added, removed and
    renamed. docs/extend.md has a complete example.

    A ``side`` method sends no gradient into the backbone, which runs once, without gradient, and
    which the method leaves frozen: :meth:`side_features` gives the tasks their features.

    With ``per_task_forward`` the backbone runs once per task, with :meth:`parameters_for` in place;
    otherwise one pass serves all tasks. With ``counts_output_norms``, trainable output norms count
    as part of the backbone, as the paper counts those of BitFit. ``couples_tasks`` are tasks
    whose outputs depend on each other's parameters: all of them run, and none can be added later.

    Every method takes ``unfreeze`` in its config: groups of the backbone's parameters that are
    trained as well, see :func:`unfreeze`. None means the groups of the method's paper.
    """

    side: bool = False
    per_task_forward: bool = False
    counts_output_norms: bool = False
    couples_tasks: tuple[str, ...] = ()
    unfreeze: Sequence[str] | None = None
    #: Keys of a method's config that :func:`build_method` reads.
    of_builder = ("unfreeze",)
    blocks: Any  # an nn.ModuleList, whose items torch gives no type

    def attach(self, backbone: Backbone) -> None:
        """Create all parameters of the method, and set ``requires_grad``."""

    def reset_from_pretrained(self, backbone: Backbone) -> None:
        """Initialise the parameters of the method, after the frozen weights are loaded."""

    def parameters_for(self, task: str) -> dict[str, Tensor]:
        """With ``per_task_forward``, map keys of the backbone to tensors that replace them.

        All tasks have the same keys; tasks whose tensors are the same share a pass. A key of the
        method itself (``peft.<...>``) must belong to a block, see :meth:`block_of`, and may be used
        only in :meth:`after_attn`, :meth:`after_mlp`, :meth:`after_residual` and
        :meth:`parallel_to_mlp`: in training, only these run per task.
        """
        return {}

    @property
    def shares_features(self) -> bool:
        """Whether all tasks have the same features."""
        own, base = type(self), PEFTMethod
        hooks = ("task_features", "tails", "side_features")
        same = all(getattr(own, hook) is getattr(base, hook) for hook in hooks)
        return same and not self.per_task_forward

    def block_of(self, key: str) -> int | None:
        """Index of the block that one of the method's keys belongs to: ``blocks.<index>.<...>``."""
        own = _OF_BLOCK.match(key)
        return int(own[1]) if own else None

    def original_name(self, key: str) -> str:
        """Name of the parameter that ``key`` is a per-task copy of; ``key`` if it is not a copy."""
        return key

    def merge(self, backbone: Backbone, tasks: Sequence[str]) -> PEFTMethod:
        """Fold what is linear into the backbone's layers, for ``tasks`` only and for good.

        Return the method that remains for prediction: this one, or ``PEFTMethod()`` if none does.
        """
        return self

    def after_attn(self, index: int, out: Tensor, grid: TokenGrid) -> Tensor:
        """Adapt the output (B, L, d) of the attention before it is added to the stream."""
        return out

    def parallel_to_mlp(self, index: int, y: Tensor, grid: TokenGrid) -> SideOutput:
        """Run in parallel to the MLP of a block, on y (B, L, d), the stream before ``norm2``."""
        return SideOutput()

    def after_mlp(self, index: int, out: Tensor, grid: TokenGrid) -> Tensor:
        """Adapt the output (B, L, d) of the MLP before it is added to the stream."""
        return out

    def after_residual(self, index: int, where: str, x: Tensor, grid: TokenGrid) -> SideOutput:
        """Adapt the stream x (B, L, d) after a residual sum: that of the 'attn' or the 'mlp'.

        A ``task_feature`` after the 'mlp' replaces that of :meth:`parallel_to_mlp`.
        """
        return SideOutput()

    def tails(self, index: int, tasks: Sequence[str]) -> dict[str, Tensor]:
        """Map keys of the backbone to tensors that replace them while block ``index`` runs.

        These start a tail per task, a stream of its own to the end of the block: a wrapped ``proj``
        that sees them returns ((1 + T) B, L, d), the shared stream and then those of ``tasks``. The
        rest of the block, hooks included, runs on this batch. The next block gets the shared stream
        only. The tails become the ``feature`` of each task in :meth:`task_features`, so only the
        last block of a stage may have them. An empty mapping means none.
        """
        return {}

    def task_features(
        self,
        stage: int,
        feature: Tensor,
        kept: Sequence[Any],
        tasks: Sequence[str],
        grid: TokenGrid,
    ) -> dict[str, Tensor]:
        """Return the features (B, L, d) of ``tasks`` at the end of a stage, keyed by task.

        ``feature`` (B, L, d) is the output of the stage's norm. ``kept`` has one
        ``SideOutput.task_feature`` per block of the stage. All of them have the patch tokens only,
        so ``grid.prefix`` is 0.
        """
        return dict.fromkeys(tasks, feature)

    def side_features(
        self, images: Tensor, maps: Sequence[SimpleMap], tasks: Sequence[str]
    ) -> dict[str, tuple[Map, ...]]:
        """Return the four maps (B, C_j, H_j, W_j) of ``tasks``, for a ``side`` method.

        ``images`` (B, 3, H, W) are normalised. ``maps`` are the frozen backbone's; of a plain ViT,
        they are ``LazyResize`` with the values of its patch grid. They have more channels if
        :meth:`task_features` adds some to the feature of a stage.
        """
        return dict.fromkeys(tasks, tuple(maps))


def task_embeddings(backbone: Backbone, length: int) -> nn.ParameterDict:
    """Create one embedding (E,) per task, the input of hypernetworks."""
    return nn.ParameterDict({t: nn.Parameter(torch.empty(length)) for t in backbone.task_names})


def build_method(cfg: Mapping | None) -> PEFTMethod:
    """Build a PEFT method; None adapts nothing. Raises InputError for an unknown type."""
    if cfg is None:
        return PEFTMethod()
    if not isinstance(cfg, Mapping):
        raise InputError(f"`peft` must be a dict such as dict(type='VMTAdapter'), got {cfg!r}")
    given = cfg.get("type")
    kind = PEFT_METHODS.get(given) if isinstance(given, str) else given
    if not callable(kind):
        known = ", ".join(sorted(PEFT_METHODS.module_dict))
        raise InputError(f"peft: unknown type {given!r}; known: {known}")
    cfg = dict(cfg)
    groups = cfg.pop("unfreeze", None)
    _check_settings(kind, cfg)
    method = PEFT_METHODS.build(cfg)
    method.unfreeze = method.unfreeze if groups is None else groups
    return method


def _check_settings(kind: Callable, cfg: Mapping[str, Any]) -> None:
    """Raise InputError for a flag that is not True or False, or a number that is not finite.

    The annotations of the method's arguments, ``bool``, ``float`` or ``float | None``, decide.
    """
    for name, parameter in signature(kind).parameters.items():
        value, hint = cfg.get(name, parameter.default), parameter.annotation
        hint = hint if isinstance(hint, str) else getattr(hint, "__name__", str(hint))
        number = isinstance(value, (int, float)) and type(value) is not bool and isfinite(value)
        rules = {
            "bool": ("True or False", type(value) is bool),
            "float": ("a finite number", number),
            "float | None": ("a finite number or None", number or value is None),
        }
        rule, fits = rules.get(hint, ("", True))
        if name in cfg and not fits:
            raise InputError(f"{kind.__name__}: `{name}` must be {rule}, got {value!r}")


def attach_method(method: PEFTMethod, backbone: Backbone) -> None:
    """Attach a method, then unfreeze the groups of parameters that it names.

    Raises InputError for a group that is unknown, or of which the backbone has no parameter.
    """
    method.attach(backbone)
    found = parameter_groups(backbone)
    groups = () if method.unfreeze is None else method.unfreeze
    known = isinstance(groups, (list, tuple)) and all(g in [*found] for g in groups)
    if not known or len(set(groups)) < len(groups):
        rule = f"must be a list of distinct names from {[*found]}"
        raise InputError(f"peft: `unfreeze` {rule}, got {groups!r}")
    if groups and method.side:
        if not method.shares_features:
            problem = f"{type(method).__name__} sends no gradient into the backbone"
            raise InputError(f"peft: {problem}; remove `unfreeze`, got {groups!r}")
        method.side = False  # the gradients of the heads enter it
    for group in groups:
        if not found[group]:
            have = [name for name, own in found.items() if own]
            problem = f"the backbone has no parameter of {group!r}, only of {have}"
            raise InputError(f"peft: {problem}; remove {group!r} from `unfreeze`")
        for parameter in found[group]:
            parameter.requires_grad_(True)


def parameter_groups(backbone: Backbone) -> dict[str, list[nn.Parameter]]:
    """Return the backbone's own parameters of each group that ``unfreeze`` may name.

    ``norm``: all norms; ``patch_embed``: the patch embedding with its norm; ``relative_position``:
    the tables of relative positions; ``reduction``: the linear layers of patch merging.
    """
    named = [x for x in backbone.named_parameters() if not x[0].startswith("peft.")]
    return {
        group: [parameter for name, parameter in named if pattern.search(name)]
        for group, pattern in _GROUPS.items()
    }


def layers_by_block(method: str, backbone: Backbone, role: str) -> list[tuple[str, ...]]:
    """Full names of the layers of a role in each block. Raises InputError if one lacks it."""
    for block in backbone.block_specs:
        if role not in block.layers:
            known = sorted(block.layers)
            raise InputError(f"{method} needs {role!r} in every block; this backbone has {known}")
    return [block.layers[role] for block in backbone.block_specs]


def layer_names(method: str, backbone: Backbone, role: str) -> list[str]:
    """Full names of the layers of a role in all blocks. Raises InputError if one lacks it."""
    return [name for own in layers_by_block(method, backbone, role) for name in own]
