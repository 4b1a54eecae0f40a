"""Plain ViTs of timm with a PEFT method: DINOv3, DINOv2 with registers, SigLIP 2, PE, EVA-02, ...

Notation: B images, d channels, N = h w patches, L = N plus the class and register tokens.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from functools import partial
from importlib import import_module
from math import isqrt
from typing import Any

import torch
from torch import Tensor, nn

from vmt_mm.errors import InputError, refuse_unread
from vmt_mm.models.backbones.looks import looks_like
from vmt_mm.models.backbones.peft_backbone import PEFTBackbone, embed_patches
from vmt_mm.models.backbones.plain_vit import PlainViT, group_ends
from vmt_mm.models.backbones.pretrained import load_strictly
from vmt_mm.models.backbones.timm_weights import TIMM_SCHEME, hub_config, import_timm, to_timm_keys
from vmt_mm.registry import MODELS
from vmt_mm.utils.compat import is_exporting

#: Role -> names of its layers in a block; the first choice that a block has.
_ROLES: dict[str, tuple[tuple[str, ...], ...]] = dict(
    qkv=(("attn.qkv",), ("attn.q_proj", "attn.k_proj", "attn.v_proj")),
    proj=(("attn.proj",),),
    fc1=(("mlp.fc1",), ("mlp.fc1_g", "mlp.fc1_x")),  # with SwiGLU: both in one, or gate and value
    fc2=(("mlp.fc2",),),
    norm1=(("norm1",),),
    norm2=(("norm2",),),
)
_EMBEDDING = ("patch_embed", "cls_token", "reg_token", "pos_embed", "norm_pre")
#: Further parts of timm's models that features pass; VisionTransformer has no ``rope``.
_OTHERS = ("pos_drop", "rope", "blocks", "norm")
#: Classes of timm that have the order of operations that methods expect.
_MODELS, _BLOCKS = ("VisionTransformer", "Eva"), ("Block", "EvaBlock")
#: Keys of files that no feature depends on: classifiers, and a part of the pretraining.
_UNUSED = re.compile(r"^(head|head_dist|mask_token|lm_head)(\.|$)")


@MODELS.register_module()
class MultiTaskTimmViT(PlainViT):
    """Plain ViT of timm with four feature maps per task; its PEFT method decides what is trained.

    Any model of timm's classes ``VisionTransformer`` and ``Eva`` whose blocks normalise their
    input. The maps equal timm's ``forward_intermediates(norm=True)`` with dynamic image size and
    padding, resampled to strides 4, 8, 16 and 32. State-dict keys are timm's, plus those of the
    method; timm's pooling and classifier are left out, and so are blocks after the last index. As
    in timm, models that average tokens before their norm (EVA-02) give maps without a norm, unless
    ``model_kwargs=dict(global_pool="")``; the norm's values are then the file's ``fc_norm``.

    >>> MultiTaskTimmViT(["semseg", "depth"], "vit_small_patch16_dinov3", (2, 5, 8, 11))

    Args:
        model_name: name in ``timm.list_models()``, with or without a tag.
        out_indices: index of the last block of each group; None makes four equal groups.
        in_channels: number of image channels.
        model_kwargs: of timm's class, such as ``img_size`` (of the position embeddings).

    The other arguments are those of :class:`MultiTaskSwin`.
    """

    unread = dict(
        PEFTBackbone.unread,
        in_chans="set `in_channels`",
        num_classes="heads get feature maps",
        dynamic_img_size="images may have any size",
        dynamic_img_pad="images may have any size",
        checkpoint_path="set `pretrained`",
        features_only="heads get feature maps",
        patch_drop_rate="feature maps need all patches",
    )
    cls_token: nn.Parameter | None
    reg_token: nn.Parameter | None
    pos_embed: nn.Parameter | None
    norm_pre: nn.Module
    pos_drop: nn.Module
    rope: Any
    blocks: Any

    def __init__(
        self,
        tasks: Sequence[str],
        model_name: str,
        out_indices: Sequence[int] | None = None,
        peft: dict | None = None,
        pretrained: str | None = None,
        allow_random_backbone: bool = False,
        with_cp: bool = False,
        in_channels: int = 3,
        model_kwargs: dict | None = None,
    ) -> None:
        super().__init__()
        model_kwargs = {} if model_kwargs is None else model_kwargs
        if not isinstance(model_kwargs, Mapping):
            rule = f"`model_kwargs` must be a dict, got {model_kwargs!r}"
            raise InputError(f"MultiTaskTimmViT: {rule}")
        if not isinstance(in_channels, int) or in_channels < 1:
            raise InputError(f"MultiTaskTimmViT: `in_channels` must be > 0, got {in_channels!r}")
        refuse_unread(MultiTaskTimmViT, model_kwargs)
        for key in {"pretrained", "out_indices"} & model_kwargs.keys():  # timm would take them
            raise InputError(f"MultiTaskTimmViT: set {key!r} in the backbone, not in model_kwargs")
        model = _build(model_name, in_chans=in_channels, **model_kwargs)
        self.with_cp = with_cp
        for name in (*_EMBEDDING, *_OTHERS):
            setattr(self, name, getattr(model, name, None))
        self.out_indices = group_ends(
            "MultiTaskTimmViT", out_indices, len(model.blocks), to_the_last=False
        )
        self.blocks = model.blocks[: self.out_indices[-1] + 1]
        self.num_extra_tokens = model.num_prefix_tokens
        #: whether the class and register tokens have no positions
        self.no_embed_class = model.no_embed_class
        #: number of class and register tokens in ``pos_embed``
        self._extra_positions = 0 if model.no_embed_class else model.num_prefix_tokens
        self._resample: Any = import_module("timm.layers").resample_abs_pos_embed
        for block in self.blocks:
            # else, timm's EvaAttention uses the weight of `qkv`, and a wrapped layer does nothing
            if hasattr(block.attn, "qkv_bias_separate"):
                block.attn.qkv_bias_separate = True
        layers = {f"blocks.{number}": _roles(block) for number, block in enumerate(self.blocks)}
        self.describe(model.embed_dim, layers, _EMBEDDING, output_norm="norm")
        #: name in timm, and the module that has the class and its converter of files
        self.model_name, self.timm_module = model_name, type(model).__module__
        #: whether a file's norm of averaged tokens may be the final norm
        self.takes_fc_norm = "global_pool" in model_kwargs
        #: timm's keys that this backbone leaves out
        self.left_out = model.state_dict().keys() - self.state_dict().keys()
        self.init_peft(tasks, peft, pretrained, allow_random_backbone)

    def embed(self, grid: tuple[int, int], images: Tensor) -> Tensor:
        """Embed images (B, 3, H, W) as tokens (B, L, d) with positions on a grid (h, w)."""
        x = embed_patches(self.patch_embed, images)
        tokens = [token for token in (self.cls_token, self.reg_token) if token is not None]
        extra = [token.expand(x.shape[0], -1, -1) for token in tokens]
        positions = self._positions(grid)
        if positions is not None and self.no_embed_class:
            x = x + positions
        if extra:
            x = torch.cat((*extra, x), dim=1)
        if positions is not None and not self.no_embed_class:
            x = x + positions
        return self.norm_pre(self.pos_drop(x))

    def _positions(self, grid: tuple[int, int]) -> Tensor | None:
        """Return the position embeddings (1, N or L, d) of a grid, interpolated as timm does."""
        if self.pos_embed is None:
            return None
        extra, own = self._extra_positions, self.patch_embed.grid_size
        if not is_exporting():
            return self._resample(self.pos_embed, list(grid), own, extra)
        # ONNX has no antialiased interpolation
        rows, columns = (_interpolation(own[n], grid[n]).to(self.pos_embed) for n in (0, 1))
        width = self.pos_embed.shape[2]
        positions = rows @ self.pos_embed[0, extra:].reshape(own[0], own[1] * width)
        positions = columns @ positions.reshape(grid[0], own[1], width)
        positions = positions.reshape(1, grid[0] * grid[1], width)
        return torch.cat((self.pos_embed[:, :extra], positions), dim=1) if extra else positions

    def geometry(self, grid: tuple[int, int]) -> Sequence[tuple[Any, ...]]:
        """Return the rotary embedding of each block for a grid (h, w), if the model has any."""
        if self.rope is None:
            return super().geometry(grid)
        rotary = self.rope.get_embed(shape=list(grid))
        # learnt frequencies differ between blocks: (blocks, heads, N, 2 d / heads)
        of_blocks = rotary if rotary.ndim == 4 else [rotary] * len(self.blocks)
        return [(of_blocks[number],) for number in range(len(self.blocks))]

    def attend(self, block: Any, x: Tensor, *geometry: Any) -> Tensor:
        """Run the attention of a block on x (B, L, d), with LayerScale and stochastic depth."""
        return _scale(block, 1, block.attn(x, *geometry))

    def feed_forward(self, block: Any, x: Tensor) -> Tensor:
        """Run the MLP of a block on x (B, L, d), with LayerScale and stochastic depth."""
        return _scale(block, 2, block.mlp(x))

    def load_pretrained(self, source: str | None = None) -> None:
        """Load the frozen weights; InputError before a download of weights with another tag."""
        name, tag = source or str(self.pretrained), self.model_name.partition(".")[2]
        if name.startswith(TIMM_SCHEME) and tag not in ("", theirs := hub_config(name).tag):
            problem = f"has the tag {theirs!r}, but model_name={self.model_name!r}"
            raise InputError(f"pretrained {name!r} {problem}; set the same tag in both")
        super().load_pretrained(source)

    def load_frozen(self, state: dict[str, Tensor], source: str) -> None:
        """Load a checkpoint of any origin strictly; interpolate positions of another grid."""
        looks = partial(looks_like, state, self.model_name)
        state, origin = to_timm_keys(self, state, source, looks)
        unused = {key for key in state if key in self.left_out or _UNUSED.search(key)}
        state = {key: value for key, value in state.items() if key not in unused}

        def resize(key: str, value: Tensor, own: Tensor) -> Tensor:
            extra = self._extra_positions
            side = isqrt(value.shape[1] - extra) if key == "pos_embed" else 0
            if not side or side * side + extra != value.shape[1]:
                return value
            return self._resample(value, list(self.patch_embed.grid_size), (side, side), extra)

        unknown = {key.rpartition(".")[0] for key in state.keys() - self.state_dict().keys()}
        for norm, pool in (("norm", "" if self.cls_token is None else "token"), ("fc_norm", "avg")):
            if unknown == {norm}:  # the final norm, or that of averaged tokens
                hint = f"set model_kwargs=dict(global_pool={pool!r})"
                raise InputError(f"{source} has {norm!r}, but {self.model_name!r} not; {hint}")
        load_strictly(self, state, source, origin, resize=resize, looks=looks)


def _build(name: str, **options: Any) -> Any:
    """Build a model of timm with random weights; InputError if it is unknown or of another kind."""
    timm = import_timm("MultiTaskTimmViT")
    if not isinstance(name, str) or not timm.is_model(name):
        near = get_close_matches(str(name), timm.list_models(), 4)
        raise InputError(f"MultiTaskTimmViT: timm has no model {name!r}; similar names: {near}")
    rule = f"must be a {' or '.join(_MODELS)} of PatchEmbed and {' or '.join(_BLOCKS)}"
    sizes = dict(num_classes=0, dynamic_img_size=True, dynamic_img_pad=True)
    try:
        model = timm.create_model(name, **sizes, **options)
    except Exception as error:  # of any argument, timm checks few
        other = "dynamic_img_" in str(error)  # only these classes take images of any size
        problem = f"{name!r} {rule}" if other else f"timm cannot build {name!r}"
        raise InputError(f"MultiTaskTimmViT: {problem}: {error}") from None
    kinds = [type(module).__name__ for module in (model, getattr(model, "patch_embed", None))]
    blocks = {type(block).__name__ for block in getattr(model, "blocks", ())}
    if kinds[0] not in _MODELS or kinds[1] != "PatchEmbed" or not blocks <= set(_BLOCKS):
        found = f"{kinds[0]} of {', '.join([kinds[1], *sorted(blocks)])}"
        raise InputError(f"MultiTaskTimmViT: {name!r} {rule}, but it is {found}")
    dim = next((block.attn.head_dim for block in model.blocks), 4)
    if getattr(model, "rope", None) is not None and dim % 4:
        problem = f"rotary embeddings need channels per head divisible by 4, got {dim}"
        raise InputError(f"MultiTaskTimmViT: {name!r}: {problem}; set num_heads in model_kwargs")
    return model


def _interpolation(old: int, new: int) -> Tensor:
    """Return the matrix (new, old) of bicubic interpolation with antialiasing, as PyTorch's."""
    scale = torch.as_tensor(old / new)
    centres = (torch.arange(new) + 0.5) * scale
    distance = (torch.arange(old) + 0.5 - centres[:, None]).abs() / scale.clamp(min=1)
    near = (1.5 * distance - 2.5) * distance**2 + 1  # the cubic kernel of Keys with a = -0.5
    far = ((2.5 - 0.5 * distance) * distance - 4) * distance + 2
    weights = torch.where(distance < 1, near, torch.where(distance < 2, far, 0))
    return weights / weights.sum(1, keepdim=True)


def _roles(block: nn.Module) -> dict[str, tuple[str, ...]]:
    """Return the layers of a block by role, without the roles that it lacks."""
    own = dict(block.named_modules())
    choices = {
        role: [names for names in several if all(name in own for name in names)]
        for role, several in _ROLES.items()
    }
    return {role: names[0] for role, names in choices.items() if names}


def _scale(block: Any, number: int, x: Tensor) -> Tensor:
    """Apply LayerScale, which Eva and VisionTransformer name differently, and stochastic depth."""
    gamma = getattr(block, f"gamma_{number}", None)
    layer = getattr(block, f"ls{number}", None)
    x = x if gamma is None else gamma * x
    x = x if layer is None else layer(x)
    return getattr(block, f"drop_path{number}")(x)
