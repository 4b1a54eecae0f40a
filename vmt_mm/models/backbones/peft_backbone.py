"""How a PEFT method acts in a backbone of any architecture.

Notation: B images, L tokens, d channels.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from vmt_mm.checkpoints.keys import PEFT
from vmt_mm.errors import InputError
from vmt_mm.models.backbones.pretrained import read_state_dict
from vmt_mm.models.backbones.task_streams import PerTaskCall, TaskStreams
from vmt_mm.peft import (
    Backbone,
    PEFTMethod,
    SideOutput,
    TokenGrid,
    attach_method,
    build_method,
)
from vmt_mm.peft.parameter_swap import call_with, find_parameter
from vmt_mm.utils.compat import is_exporting, need
from vmt_mm.utils.feature_maps import Map, SimpleMap, as_tensor


class PEFTBackbone(Backbone):
    """Mixin that adds a PEFT method to a frozen backbone; list it before the architecture's class.

    ::

        forward(images, tasks)
          forward_features                            the architecture's loop: swin.py, vit.py
            streams = start_streams(tasks, images)    one stream until the tasks differ
            streams.apply(part, f)                    x = f(x): embedding, patch merging
            run_block(streams, i, grid)                 with method.tails(i, tasks) in place
              y    = x + method.after_attn(i, attend(norm1(x)), grid)
              y    = add(y, method.after_residual(i, "attn", y, grid))
              side = method.parallel_to_mlp(i, y, grid)
              out  = method.after_mlp(i, feed_forward(norm2(y)), grid)
              x    = add(y + out, side)                   y + out + side.scale * side.residual
              x    = add(x, method.after_residual(i, "mlp", x, grid))
            streams.end_stage(part, norm, stage, grid)  norm, then method.task_features
          -> task: four maps

    The architecture's ``__init__`` builds the modules, then calls :meth:`init_peft`. A block has
    the submodules ``norm1``, ``attn``, ``norm2`` and ``ffn``, as in mmseg and mmpretrain.

    Attributes:
        parts: name of a module, or of a parameter outside modules -> the part of the loop that uses
            it; each block is a part named after itself.
        added_keys, resized_keys: state-dict keys of the method's parameters, and of parameters that
            were interpolated from the pretrained file.
        batch_tasks: in training, stack the tasks along the batch and run the frozen layers once, if
            the tasks differ only in parameters of the method and ``with_cp`` is off. Side effect:
            parameters of the other tasks get zero gradients instead of None.
        with_cp: recompute each block in the backward pass instead of keeping its activations.
        out_channels, strides: channels and strides of the four feature maps.
        pretrained_path: the file of all frozen weights; None if they are not from one file.
    """

    #: Arguments of the libraries' backbones that are refused -> what to use.
    unread: ClassVar[Mapping[str, str]] = dict(
        frozen_stages="the PEFT method decides what is frozen",
        init_cfg="set `pretrained`, or allow_random_backbone=True",
    )
    parts: Mapping[str, str]
    peft: PEFTMethod
    added_keys: frozenset[str]
    batch_tasks: bool = True
    with_cp: bool
    pretrained_path: str | None = None
    resized_keys: frozenset[str] = frozenset()
    _compiled_loop: Callable[..., Any] | None = None

    def init_peft(
        self, tasks: Sequence[str], peft: dict | None, pretrained: str | None, allow_random: bool
    ) -> None:
        """Freeze the backbone, and attach the method of config ``peft``; None adapts nothing."""
        if isinstance(tasks, str) or not tasks or len(set(tasks)) != len(tasks):
            raise InputError(f"backbone: `tasks` must be a list of distinct names, got {tasks!r}")
        if dotted := [name for name in tasks if "." in name]:
            raise InputError(f"backbone: task names must not contain a dot, got {dotted}")
        self.task_names = tuple(tasks)
        self.pretrained, self.allow_random_backbone = pretrained, allow_random
        modules: Any = self.modules()
        for ffn in (module for module in modules if hasattr(module, "add_identity")):
            ffn.add_identity = False  # run_block adds it
        self.requires_grad_(False)
        own = set(self.state_dict())
        self.peft = build_method(peft)
        attach_method(self.peft, self)
        self.added_keys = frozenset(set(self.state_dict()) - own)
        #: key of a parameter that is swapped per task -> the part that uses it
        self._part_of = {k: self._find_part(k) for t in tasks for k in self.peft.parameters_for(t)}
        # for callers that skip init_weights; leave the random state unchanged
        with torch.random.fork_rng(devices=[]):
            self.peft.reset_from_pretrained(self)

    def blocks_of(self, stage: int) -> list[int]:
        """Return the indices of the blocks of a stage."""
        return [index for index, block in enumerate(self.block_specs) if block.stage == stage]

    def _find_part(self, key: str) -> str:
        """Return the part that uses a parameter."""
        try:
            find_parameter(self, key)
            own = self.peft.block_of(key.removeprefix(PEFT)) if key.startswith(PEFT) else None
            name = key if own is None else self.block_specs[own].name
            return next(p for n, p in self.parts.items() if f"{name}.".startswith(f"{n}."))
        except (KeyError, AttributeError, StopIteration):
            problem = f"peft: {type(self.peft).__name__} replaces {key!r}, but none of the parts"
            raise InputError(f"{problem} {', '.join(self.parts)} uses it") from None

    def start_streams(self, tasks: Sequence[str], x: Tensor) -> TaskStreams:
        """Return the streams of one call, starting at ``x``."""
        join = self.batch_tasks and self.training and torch.is_grad_enabled()
        return TaskStreams(self, self._part_of, tasks, x, join)

    def run_block(self, streams: TaskStreams, index: int, grid: TokenGrid, *geometry: Any) -> None:
        """Run block ``index`` on every stream, whose tokens lie on ``grid``.

        ``geometry`` is passed on to :meth:`attend`.
        """
        name = self.block_specs[index].name
        recompute = self.with_cp and torch.is_grad_enabled()
        block, tails = self.get_submodule(name), self.peft.tails(index, streams.tasks)
        count = len(streams.tasks) if tails else 0
        run = partial(self._block, block, index, grid, geometry, count)
        # within the function that is recomputed, as every swap
        run = partial(call_with, self, tails, run) if tails else run
        streams.block(name, run, recompute)

    def _block(
        self,
        block: Any,
        index: int,
        grid: TokenGrid,
        geometry: tuple,
        tails: int,
        call: PerTaskCall,
        x: Tensor,
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Run a block with the method; return the stream (B, L, d), task feature and T ``tails``.

        The tails are (T B, L, d), task by task; None without any.
        """
        method, batch = self.peft, x.shape[0]
        attended = self.attend(block, block.norm1(x), *geometry)
        attended = call(lambda out: method.after_attn(index, out, grid), attended)
        if tails:  # the batch of the attention has x, then each task
            y = (x + attended.reshape(1 + tails, *x.shape)).reshape(attended.shape)
        else:
            y = x + attended
        y = _add(y, call(lambda y: method.after_residual(index, "attn", y, grid), y))
        side = call(lambda y: method.parallel_to_mlp(index, y, grid), y)
        out = self.feed_forward(block, block.norm2(y))
        x = _add(y + call(lambda out: method.after_mlp(index, out, grid), out), side)
        last = call(lambda x: method.after_residual(index, "mlp", x, grid), x)
        feature = side.task_feature if last.task_feature is None else last.task_feature
        x = _add(x, last)
        return (x[:batch], None, x[batch:]) if tails else (x, feature, None)

    def merge_method(self, tasks: Sequence[str] | None = None) -> bool:
        """Fold the method into the weights, for ``tasks`` and for good; return if all of it is."""
        own = self.state_dict().keys() - self.added_keys
        self.task_names = self.select_tasks(tasks)
        self.peft = self.peft.merge(self, self.task_names)
        self._part_of = self._part_of if self.peft.per_task_forward else {}
        self.added_keys = frozenset(self.state_dict().keys() - own)
        return not self.added_keys

    def attend(self, block: Any, x: Tensor, *geometry: Any) -> Tensor:
        """Run the attention of a block on x (B, L, d); an architecture may override it."""
        return block.attn(x, *geometry)

    def feed_forward(self, block: Any, x: Tensor) -> Tensor:
        """Run the MLP of a block on x (B, L, d); an architecture may override it."""
        return block.ffn(x)

    def forward(
        self,
        images: Tensor,
        tasks: Sequence[str] | None = None,
        lazy: bool = False,
        frozen: Sequence[SimpleMap] | None = None,
    ) -> dict[str, tuple[Map, ...]]:
        """Return four feature maps per task, from one pass or one per task, as the method needs.

        Images (B, 3, H, W) are normalised, of any size; ``tasks`` None means all. Per task, the
        maps are (B, C_j, ceil(H / s_j), ceil(W / s_j)); tasks may share them. With ``lazy``, maps
        may be ``LazyResize`` or ``LazySum``, for heads that start with a 1x1 convolution. A side
        method takes the maps ``frozen``, or, if None, those of :meth:`frozen_maps`.
        """
        names = self.select_tasks(tasks)
        features: Mapping[str, tuple[Map, ...]]
        if self.peft.side:
            frozen = self.frozen_maps(images) if frozen is None else frozen
            features = self.peft.side_features(images, frozen, names)
        else:
            features = self._loop(images, self.peft.couples_tasks or names)
        features = {name: features[name] for name in names}
        return features if lazy else _materialise(features)

    @torch.no_grad()
    def frozen_maps(self, images: Tensor) -> tuple[SimpleMap, ...]:
        """Return the four maps of images (B, 3, H, W) that a side method gets, without gradient.

        They have the channels that the method's ``task_features`` returns.
        """
        (maps,) = self._loop(images, self.task_names[:1]).values()
        return maps

    def _loop(self, images: Tensor, names: Sequence[str]) -> dict[str, tuple[SimpleMap, ...]]:
        """Run the backbone, compiled or not. Raises InputError for another number of channels."""
        if self.image_channels not in (None, images.shape[1]):
            counts = f"{images.shape[1]} channel(s), but in_channels={self.image_channels}"
            hint = "set model.backbone.in_channels, or color_type of LoadImageFromFile"
            raise InputError(f"the images have {counts}; {hint}")
        return (self._compiled_loop or type(self).forward_features)(self, images, names)

    @property
    def image_channels(self) -> int | None:
        """Number of image channels that the patch embedding takes; None if unknown."""
        embed = getattr(self, "patch_embed", None)
        return getattr(embed and patch_convolution(embed), "in_channels", None)

    def forward_features(
        self, images: Tensor, names: Sequence[str]
    ) -> dict[str, tuple[SimpleMap, ...]]:
        """Run all parts of the backbone; return the four maps of each task in ``names``."""
        raise NotImplementedError

    def compile_features(self, **options: Any) -> None:
        """Compile :meth:`forward_features` with ``torch.compile(**options)``; keeps all keys."""
        need("2.6", "compile_features")
        self._compiled_loop = torch.compile(type(self).forward_features, **options)

    #: (self, state, source): convert a checkpoint of any origin, and load it strictly.
    load_frozen: Callable[..., None]

    def load_pretrained(self, source: str | None = None) -> None:
        """Load the frozen weights from ``source``; None means ``pretrained`` of the config."""
        source = source or self.pretrained
        assert source is not None
        self.load_frozen(read_state_dict(source), source)
        self.pretrained_path = source

    def init_weights(self) -> None:
        """Load the pretrained weights, then initialise the method. Raises InputError without."""
        if self.pretrained:
            self.load_pretrained()
        elif self.allow_random_backbone:
            super().init_weights()
        else:
            hint = "set `pretrained`, or `allow_random_backbone=True` for random weights"
            raise InputError(f"the backbone has no pretrained weights: {hint}")
        self.peft.reset_from_pretrained(self)
        self._is_init = True

    def _dump_init_info(self, *_: Any) -> None:
        """Log nothing: mmengine would log three lines per parameter."""

    def train(self, mode: bool = True) -> PEFTBackbone:
        """Set the mode; modules with only frozen parameters, none of them swapped, stay in eval."""
        super().train(mode)
        swapped = {key.rpartition(".")[0] for key in self._part_of}
        for name, module in self.named_modules() if mode else ():
            frozen = [not p.requires_grad for p in module.parameters()]
            if frozen and all(frozen) and not any(f"{s}.".startswith(f"{name}.") for s in swapped):
                module.eval()
        embedding: Any = getattr(self, "patch_embed", self)
        for child in self.children():  # such as the dropout of positions
            if next(child.parameters(), None) is None:
                child.train(embedding.training)
        return self

    def select_tasks(self, tasks: Sequence[str] | None) -> tuple[str, ...]:
        """Return the names of the given tasks; None means all. Raises InputError for others."""
        tasks = (tasks,) if isinstance(tasks, str) else tasks
        if tasks is not None and (not tasks or len(set(tasks)) != len(tasks)):
            raise InputError(f"`tasks` must be one or more distinct names, got {list(tasks)}")
        if unknown := [t for t in tasks or () if t not in self.task_names]:
            raise InputError(f"unknown task(s) {unknown}; this model has {list(self.task_names)}")
        return self.task_names if tasks is None else tuple(tasks)


def _add(x: Tensor, side: SideOutput) -> Tensor:
    """Add ``scale * residual`` to the stream x (B, L, d)."""
    if side.residual is None:
        return x
    if isinstance(side.scale, Tensor):
        return x + side.scale * side.residual
    return torch.add(x, side.residual, alpha=side.scale)


def patch_convolution(embed: Any) -> Any:
    """Return the convolution of mmcv's or timm's patch embedding; None if it has another name."""
    return getattr(embed, "projection", None) or getattr(embed, "proj", None)


def patch_grid(embed: Any, images: Tensor) -> tuple[int, int]:
    """Return (height, width) of the patch grid; no remainders, for ONNX's shape inference."""
    (high, wide), (height, width) = patch_convolution(embed).stride, images.shape[2:]
    return (height + high - 1) // high, (width + wide - 1) // wide


def embed_patches(embed: Any, images: Tensor) -> Tensor:
    """Embed images (B, 3, H, W) as tokens (B, L, d), traceable for any image size."""
    conv, (height, width) = patch_convolution(embed), images.shape[2:]
    (high, wide), (rows, columns) = conv.stride, patch_grid(embed, images)
    if tuple(conv.kernel_size) != (high, wide):  # overlapping patches
        return embed(images)[0]
    below, right = rows * high - height, columns * wide - width
    if is_exporting() or below or right:
        images = F.pad(images, (0, right, 0, below))
    # not flatten: ONNX's shape inference may take its result for a tensor of five dimensions
    x = conv(images).reshape(images.shape[0], conv.out_channels, rows * columns).transpose(1, 2)
    return x if embed.norm is None else embed.norm(x)


def _materialise(features: Mapping[str, tuple[Map, ...]]) -> dict[str, tuple[Map, ...]]:
    """Turn lazy maps into tensors; maps shared by tasks are resampled once."""
    made: list[tuple[Map, Tensor]] = []  # no dictionary by id(), which torch.compile cannot follow

    def make(level: Map) -> Tensor:
        for known, cells in made:
            if known is level:
                return cells
        made.append((level, as_tensor(level)))
        return made[-1][1]

    return {name: tuple(map(make, levels)) for name, levels in features.items()}
