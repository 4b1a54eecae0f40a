"""The seam: what every encoder offers to PEFT methods, whatever its architecture.

Letters: B images, L tokens, d channels.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from vmt_mm.errors import InputError
from vmt_mm.models.backbones.hooks import Hooks
from vmt_mm.models.backbones.pretrained import read_state_dict
from vmt_mm.models.backbones.task_streams import TaskStreams, part_of
from vmt_mm.models.backbones.token_chunks import over_tokens
from vmt_mm.models.lazy_resize import LazyResize
from vmt_mm.peft import BlockSpec, build_method
from vmt_mm.peft.parameter_swap import ParameterSwap, find_parameter, is_substituted
from vmt_mm.utils.compat import need

#: Width of an MLP in d, as nearly all have it.
_MLP_RATIO = 4


class PEFTBackbone:
    """Mixin of a frozen encoder with a PEFT method; precedes the architecture's class.

    The architecture's ``__init__`` builds its parts, then calls :meth:`init_peft`; its
    :meth:`forward_features` runs them. A block has ``norm1``, ``attn``, ``norm2`` and ``ffn``, as
    mmseg's and mmpretrain's have.

    Attributes:
        task_names: the tasks that the encoder gives features for.
        blocks: every block, in order.
        parts: name of a module, or of a parameter outside modules -> the part that it is run in;
            a block is a part of its own name.
        added_keys: state-dict keys that the method brought in.
        batch_tasks: train tasks whose parameters differ in one batch, where they allow it; a task's
            loss then gives the other tasks' own parameters gradients of 0 instead of none.
        with_cp: recompute each block in the backward pass instead of keeping its activations.
        out_channels: channels of the four feature maps.
        strides: strides of the four feature maps.
        pretrained_path: the file that all frozen weights came from; None where no file has them.
        resized_keys: state-dict keys of what was interpolated from that file.
    """

    #: Arguments of the libraries' encoders that are refused -> what to use.
    unread: ClassVar[Mapping[str, str]] = dict(
        frozen_stages="the PEFT method decides what is frozen",
        init_cfg="set `pretrained` to the file of weights, or allow_random_backbone=True",
    )
    task_names: tuple[str, ...]
    blocks: tuple[BlockSpec, ...]
    parts: Mapping[str, str]
    added_keys: frozenset[str]
    batch_tasks: bool = True
    with_cp: bool
    _compiled_loop: Callable[..., Any] | None = None
    out_channels: tuple[int, ...]
    strides: tuple[int, ...] = (4, 8, 16, 32)
    pretrained_path: str | None = None
    resized_keys: frozenset[str] = frozenset()

    def init_peft(
        self,
        tasks: Sequence[str],
        peft: dict | None,
        pretrained: str | None,
        allow_random_backbone: bool,
    ) -> None:
        """Freeze everything and attach the method.

        Args:
            tasks: names of the tasks.
            peft: config of the method; None adapts nothing.
            pretrained: file of the frozen weights.
            allow_random_backbone: accept that there is none.
        """
        if isinstance(tasks, str) or not tasks or len(set(tasks)) != len(tasks):
            raise InputError(f"encoder: `tasks` must be a list of different names, got {tasks!r}")
        if dotted := [name for name in tasks if "." in name]:
            raise InputError(f"encoder: a task's name may hold no dot, got {dotted}")
        self.task_names = tuple(tasks)
        self.pretrained = pretrained
        self.allow_random_backbone = allow_random_backbone
        for block in self.blocks:
            self.get_submodule(block.name).ffn.add_identity = False  # the loop here adds it
        self.requires_grad_(False)
        own = set(self.state_dict())
        self.peft = build_method(peft)
        self.peft.attach(self)
        self.added_keys = frozenset(set(self.state_dict()) - own)
        self._substitution = ParameterSwap(self)
        self._place = self._find_places()
        # weights loaded without `init_weights` must not meet memory that nobody has set; the
        # caller's random numbers stay as they are
        with torch.random.fork_rng(devices=[]):
            self.peft.reset_from_pretrained(self)

    def _find_places(self) -> dict[str, str]:
        """Key of every parameter that is replaced -> the part that reads it; none in training."""
        places = {}
        for task in self.task_names:
            for key in self.peft.parameters_for(task):
                try:
                    places[key] = part_of(key, self.parts, self.blocks, self.peft)
                    find_parameter(self, key)
                except (KeyError, AttributeError) as error:
                    raise InputError(
                        f"peft: {type(self.peft).__name__} replaces {key!r}, which no block and no "
                        f"other part of the encoder reads; parts: {', '.join(self.parts)}"
                    ) from error
        return places

    def start_streams(self, tasks: Sequence[str], x: Tensor) -> TaskStreams:
        """The streams of one call, which begin at ``x``."""
        join = self.batch_tasks and self.training and torch.is_grad_enabled()
        return TaskStreams(self.peft, self._substitution, self._place, tasks, x, join)

    def run_block(self, passes: TaskStreams, index: int, *geometry: Any) -> None:
        """Take every stream through one block.

        Args:
            passes: the streams.
            index: of the block.
            geometry: what its attention takes beside the tokens.
        """
        name = self.blocks[index].name
        run = partial(self._block_and_branch, self.get_submodule(name), index, geometry)
        recompute = self.with_cp and torch.is_grad_enabled()
        for stream, (x, for_decoders) in passes.through_block(name, run, recompute):
            stream.x = x
            stream.kept.append(for_decoders)

    def _block_and_branch(
        self, block: nn.Module, index: int, geometry: tuple, hooks: Hooks, x: Tensor
    ) -> tuple[Tensor, Tensor | None]:
        """One block and what the method adds: the new stream and what the decoders get."""
        attended = self.attend(index, block.attn, block.norm1(x), *geometry)
        y = x + hooks(partial(self.peft.after_attn, index), attended)
        branch = hooks(partial(self.peft.parallel_to_mlp, index), y)
        x = y + hooks(partial(self.peft.after_mlp, index), self.run_mlp(block, y))
        if branch.stream is not None:
            x = _add(x, branch.stream, branch.gain)
        return x, branch.for_decoders

    def attend(self, index: int, attn: nn.Module, x: Tensor, *geometry: Any) -> Tensor:
        """The attention of a block; an architecture may compute it in a faster way.

        Args:
            index: of the block.
            attn: its attention.
            x: (B, L, d), normalised.
            geometry: what the attention takes beside the tokens.
        """
        return attn(x, *geometry)

    def run_mlp(self, block: nn.Module, y: Tensor) -> Tensor:
        """The MLP's output (B, L, d) of a block, before the residual sum."""

        def run(tokens: Tensor) -> Tensor:
            return block.ffn(block.norm2(tokens))

        if block.ffn.training:  # its drop path is one decision an image
            return run(y)
        return over_tokens(run, y, _MLP_RATIO * y.shape[2])

    def forward(
        self, images: Tensor, tasks: Sequence[str] | None = None, on_grids: bool = False
    ) -> dict[str, tuple[Tensor | LazyResize, ...]]:
        """Run the encoder: once, or once a task where the PEFT method needs it.

        Args:
            images: (B, 3, H, W), normalised, of any size.
            tasks: the tasks wanted; None wants all.
            on_grids: leave maps that are resampled from another grid as ``LazyResize``, for heads
                that begin with a 1x1 convolution.

        Returns:
            Task name -> four maps (B, C_j, ceil(H / s_j), ceil(W / s_j)), s = 4, 8, 16, 32. Where
            a method tells no tasks apart, they may share maps.
        """
        self._check_channels(images)
        loop = self._compiled_loop or type(self).forward_features
        features = loop(self, images, self.select_tasks(tasks))
        return features if on_grids else _materialise(features)

    @property
    def image_channels(self) -> int | None:
        """Channels of the images that the embedding of patches takes; None where it says none."""
        projection = getattr(getattr(self, "patch_embed", None), "projection", None)
        return getattr(projection, "in_channels", None)

    def _check_channels(self, images: Tensor) -> None:
        """Raise InputError where the embedding of patches takes other images."""
        expected = self.image_channels
        if expected is not None and images.shape[1] != expected:
            raise InputError(
                f"images of {images.shape[1]} channel(s), and {type(self).__name__} is built for "
                f"in_channels={expected}; set backbone.in_channels, or by LoadImageFromFile's "
                "color_type what is read"
            )

    def forward_features(
        self, images: Tensor, names: Sequence[str]
    ) -> dict[str, tuple[Tensor | LazyResize, ...]]:
        """Run all parts of the encoder, and give the maps of the tasks named."""
        raise NotImplementedError

    def compile_features(self, **options: Any) -> None:
        """Compile :meth:`forward_features`; neither keys nor modules change.

        Args:
            options: of ``torch.compile``.

        Raises:
            InputError: if this PyTorch is older than 2.6, which cannot.
        """
        need("2.6", "compile_features")
        self._compiled_loop = torch.compile(type(self).forward_features, **options)

    def load_frozen(self, state: dict[str, Tensor], source: str) -> None:
        """Load the tensors of a checkpoint, strictly; the architecture knows its origins."""
        raise NotImplementedError

    def load_pretrained(self, source: str | None = None) -> None:
        """Load the file that the config declares as ``pretrained``, or another ``source``."""
        source = source or self.pretrained
        self.load_frozen(read_state_dict(source), source)
        self.pretrained_path = source

    def init_weights(self) -> None:
        """Load the pretrained weights, then set the method's initial values.

        Raises:
            InputError: if there are no pretrained weights and a random encoder was not asked for.
        """
        if self.pretrained:
            self.load_pretrained()
        elif self.allow_random_backbone:
            super().init_weights()
        else:
            raise InputError(
                "the encoder has no pretrained weights: set `pretrained`, or "
                "`allow_random_backbone=True` if a random encoder is what you want"
            )
        self.peft.reset_from_pretrained(self)
        self._is_init = True

    def _dump_init_info(self) -> None:
        """Log nothing where mmengine would log three lines a parameter."""

    def train(self, mode: bool = True) -> nn.Module:
        """Set the mode; what is wholly frozen, and replaced in no pass, stays in eval mode."""
        super().train(mode)
        if mode:
            _eval_frozen(self)
        return self

    def select_tasks(self, tasks: Sequence[str] | None) -> tuple[str, ...]:
        """The tasks asked for; None asks for all, a name for that task.

        Raises:
            InputError: if one is unknown or asked for twice, or none is asked for.
        """
        tasks = (tasks,) if isinstance(tasks, str) else tasks
        if tasks is not None and (not tasks or len(set(tasks)) != len(tasks)):
            raise InputError(f"tasks must be different names, one at least, got {list(tasks)}")
        unknown = [t for t in tasks or () if t not in self.task_names]
        if unknown:
            raise InputError(f"unknown task(s) {unknown}; this model has {list(self.task_names)}")
        return self.task_names if tasks is None else tuple(tasks)


def _add(x: Tensor, stream: Tensor, gain: Tensor | float) -> Tensor:
    """The stream with what the method adds, (B, L, d)."""
    if isinstance(gain, Tensor):
        return x + gain * stream
    return torch.add(x, stream, alpha=gain)


def _materialise(
    features: Mapping[str, tuple[Tensor | LazyResize, ...]],
) -> dict[str, tuple[Tensor, ...]]:
    """The maps themselves; those that tasks share are made once."""
    made: list[tuple[LazyResize, Tensor]] = []

    def make(level: Tensor | LazyResize) -> Tensor:
        if isinstance(level, Tensor):
            return level
        for known, cells in made:
            if known is level:
                return cells
        made.append((level, level.tensor()))
        return made[-1][1]

    return {name: tuple(make(level) for level in levels) for name, levels in features.items()}


def _eval_frozen(module: nn.Module) -> None:
    parameters = list(module.parameters())
    trains = any(p.requires_grad for p in parameters) or is_substituted(module)
    if parameters and not trains:
        module.eval()
        return
    for child in module.children():
        _eval_frozen(child)
