"""The table of PEFT methods: a row adds a method to every test of the contract.

An entry of ``ENCODERS`` adds a backbone.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from importlib import import_module
from importlib.util import find_spec
from typing import NamedTuple

import pytest
import torch
import torch.nn.functional as F
from mmpretrain.models import VisionTransformer
from mmseg.models.backbones import SwinTransformer
from torch import nn

from vmt_mm.models.backbones.swin import ARCHITECTURES
from vmt_mm.peft import PEFTMethod, SideOutput
from vmt_mm.registry import MODELS

TASKS = dict(
    semseg=dict(type="Segmentation", num_classes=4),
    normals=dict(type="Normals"),
)


@dataclass(frozen=True)
class Encoder:
    """A small backbone to test the methods on.

    Attributes:
        config: config of the adapted backbone.
        make_stock: builds the original library's backbone.
        widths: channels of the blocks.
        blocks: names of the blocks.
        layers: role, or part of qkv -> name of the layer, or names of the layers, in a block.
        lora_mlp: channels -> sum of the inputs and outputs of the MLP's layers.
        table_heads: heads of each block with a 13 x 13 table of relative positions.
        stages: stage of each block.
        own: methods that only this backbone tests fully.
        last_of_stages: indices of the blocks that give maps.
        patch_embed: name of the patch embedding.
    """

    config: Mapping
    make_stock: Callable[[], nn.Module]
    widths: tuple[int, ...]
    blocks: tuple[str, ...]
    layers: Mapping[str, str | tuple[str, ...]]
    lora_mlp: Callable[[int], int] = lambda d: (d + 4 * d) + (4 * d + d)
    table_heads: tuple[int, ...] = ()
    stages: tuple[int, ...] = (0, 1, 2, 2, 3)
    own: tuple[str, ...] = ()
    last_of_stages: tuple[int, ...] = (0, 1, 3, 4)
    patch_embed: str = "patch_embed.projection"

    @cached_property
    def sizes(self) -> dict[str, int]:
        """Name -> size of each parameter of the original backbone."""
        return {name: p.numel() for name, p in self.make_stock().named_parameters()}

    @cached_property
    def keys(self) -> frozenset[str]:
        """Keys of the original backbone's state dict."""
        return frozenset(self.make_stock().state_dict())

    def of_blocks(self, *names: str) -> frozenset[str]:
        """Names of a method's parameters in every block."""
        return frozenset(f"peft.blocks.{i}.{n}" for i in range(len(self.blocks)) for n in names)

    def of_layers(self, *names: str) -> frozenset[str]:
        """Names of parameters in every block, such as ``{role}.weight``, for each of its layers."""
        found = set()
        for name in names:
            role = name[1 : name.index("}")]
            layers = self.layers[role]
            for layer in (layers,) if isinstance(layers, str) else layers:
                found |= {f"{block}.{name.format(**{role: layer})}" for block in self.blocks}
        return frozenset(found)

    def total(self, per_block: Callable[[int], int], from_stage: int = 0) -> int:
        """Sum of a function of the channels over all blocks from a stage on."""
        widths = zip(self.widths, self.stages, strict=True)
        return sum(per_block(width) for width, stage in widths if stage >= from_stage)

    def stage_of(self, name: str) -> int:
        """Stage of the block that a parameter belongs to."""
        for index, block in enumerate(self.blocks):
            if name.startswith((f"{block}.", f"peft.blocks.{index}.")):
                return self.stages[index]
        raise AssertionError(name)


#: The second block has shifted windows; one such block is enough.
_DEPTHS = (2, 1, 1, 1)
SWIN = Encoder(
    dict(type="MultiTaskSwin", arch="nano", depths=_DEPTHS),
    lambda: SwinTransformer(**{**ARCHITECTURES["nano"], "depths": _DEPTHS}),
    (20, 20, 40, 80, 160),
    tuple(f"stages.{stage}.blocks.{n}" for stage, depth in enumerate(_DEPTHS)
          for n in range(depth)),
    dict(dict.fromkeys("qkv", "attn.w_msa.qkv"), proj="attn.w_msa.proj", fc1="ffn.layers.0.0",
         fc2="ffn.layers.1", norm1="norm1", table="attn.w_msa.relative_position_bias_table"),
    table_heads=(1, 1, 2, 4, 8),
    stages=(0, 0, 1, 2, 3),
    last_of_stages=(1, 2, 3, 4),
)  # fmt: skip
#: With LayerScale, a patch size that divides no image here, and groups of unequal length.
_VIT = dict(
    arch=dict(embed_dims=20, num_layers=5, num_heads=2, feedforward_channels=80),
    img_size=56,
    patch_size=7,
    layer_scale_init_value=0.5,
)
VIT = Encoder(
    dict(type="MultiTaskViT", out_indices=(0, 1, 3, 4), **_VIT),
    lambda: VisionTransformer(**_VIT),
    (20,) * 5,
    tuple(f"layers.{number}" for number in range(5)),
    dict(dict.fromkeys("qkv", "attn.qkv"), proj="attn.proj", fc1="ffn.layers.0.0",
         fc2="ffn.layers.1", norm1="ln1"),
    # swaps parameters outside modules, such as position embeddings
    own=("PerTask-FullFineTuning",),
)  # fmt: skip


def _timm(name: str, layers: Mapping, **options) -> Encoder:
    """A small model of timm: five blocks of 40 channels, and LayerScale that is not tiny."""
    usual = dict(embed_dim=40, depth=5, num_heads=5, img_size=56, patch_size=7)
    lora_mlp = options.pop("lora_mlp", Encoder.lora_mlp)
    sizes = {**usual, **options}
    dynamic = dict(num_classes=0, dynamic_img_size=True, dynamic_img_pad=True)
    return Encoder(
        dict(
            type="MultiTaskTimmViT",
            model_name=name,
            out_indices=(0, 1, 3, 4),
            model_kwargs=sizes,
        ),
        lambda: import_module("timm").create_model(name, **sizes, **dynamic),
        (40,) * 5,
        tuple(f"blocks.{number}" for number in range(5)),
        dict(layers, proj="attn.proj", fc2="mlp.fc2", norm1="norm1"),
        lora_mlp,
        own=("PerTask-FullFineTuning",),  # swaps parameters outside modules, also of blocks
        patch_embed="patch_embed.proj",
    )


#: RoPE, four registers, and a fused qkv with a bias outside the layer.
DINOV3 = _timm(
    "vit_small_patch16_dinov3_qkvb",
    dict(dict.fromkeys("qkv", "attn.qkv"), fc1="mlp.fc1"),
    init_values=0.5,
)
#: RoPE next to positions, separate q, k and v, and SwiGLU with a norm (106 channels).
EVA = _timm(
    "eva02_base_patch14_224",
    dict(q="attn.q_proj", k="attn.k_proj", v="attn.v_proj", fc1=("mlp.fc1_g", "mlp.fc1_x")),
    global_pool="token",  # timm's keys then have a final norm, and no other
    lora_mlp=lambda d: 3 * (d + int(d * 8 / 3)),
)
#: The first one is tested with every method.
ENCODERS = dict(swin=SWIN, vit=VIT)
if find_spec("timm"):
    ENCODERS |= dict(dinov3=DINOV3, eva=EVA)


@dataclass(frozen=True)
class Row:
    """What a method must satisfy.

    Attributes:
        peft: config of the method.
        trains: exact names of the trainable parameters of the backbone.
        count: number of trainable parameters, as a formula.
        per_task: whether the backbone runs once per task.
        from_the_start: whether the tasks differ from the patch embedding on.
        tolerance: of features that are equal; above 0 if a function rounds by an element's place in
            the batch, as SiLU does on CPUs.
        idle: trainable parameters that no feature depends on: their gradient is 0.
        steps: number of steps after which every other one has had a gradient; factors in a row
            that start at 0 take one each.
    """

    peft: Mapping
    trains: frozenset[str] = field(repr=False)
    count: int
    per_task: bool = False
    from_the_start: bool = False
    tolerance: float = 0.0
    idle: frozenset[str] = frozenset()
    steps: int = 2


_SCALES = [f"{part}.{task}" for part in ("alpha", "gamma") for task in TASKS]
_BOTTLENECK = ("norm.weight", "norm.bias", "down.weight", "down.bias", "up.weight", "up.bias")
_FACTORED = [f"{p}.{f}" for p in ("down", "up") for f in ("inner", "outer", "bias")]
_EMBEDDINGS = frozenset(f"peft.embeddings.{task}" for task in TASKS)
_DECOMPOSED = [f"{p}.{f}.{w}" for p in ("down", "up") for f in ("outer", "inner") for w in
               ("weight", "bias")]  # fmt: skip
T = len(TASKS)


def _lora(*roles: str, factors: Sequence[str] = "AB") -> list[str]:
    return [f"{{{role}}}.lora_{x}" for role in roles for x in factors]


_MONA = [
    f"{place}.{name}"
    for place in ("attn", "mlp")
    for name in ("gamma", "gamma_x", *(f"{layer}.{kind}" for layer in ("norm", "down",
    "depthwise.0", "depthwise.1", "depthwise.2", "pointwise", "up") for kind in ("weight", "bias")))
]  # fmt: skip


def _mona(d: int, k: int) -> int:
    """Down and up, LN, gamma and gamma_x, three depthwise convolutions and the 1x1."""
    return (d * k + k) + (k * d + d) + 2 * d + 2 * d + (9 + 25 + 49 + 3) * k + k * k + k


def _mtlora(on: Encoder, **options) -> Row:
    """MTLoRA of ranks 3 and 2."""
    qkv = 4 if on.layers["q"] == on.layers["k"] else 6  # a fused layer, or three
    unfrozen = [r"(^|\.)(ln\d|\w*norm\w*)\.", "^patch_embed", "bias_table$", "reduction"]
    if options.get("plus"):
        unfrozen.remove("reduction")
    own = {name for name in on.sizes if any(re.search(pattern, name) for pattern in unfrozen)}
    several = not isinstance(on.layers["fc1"], str)
    layers = ("proj", "fc1", "fc2", *(["fc1_1"] if several else []))
    tails = {f"peft.blocks.{i}.{layer}_{factor}.{task}" for i in on.last_of_stages
             for layer in layers for factor in "AB" for task in TASKS}  # fmt: skip
    shared = on.of_layers(*_lora("q", "k", "v", "proj", "fc1", "fc2"))
    count = on.total(lambda d: 3 * ((qkv + 2) * d + on.lora_mlp(d)))
    if options.get("mode") == "addition":
        of_tails = [on.blocks[i] for i in on.last_of_stages]
        added = {n for n in shared if n.startswith(tuple(of_tails)) and "qkv" not in n}
        norms = {n.replace("lora_A", "lora_norm.weight").replace("lora_B", "lora_norm.bias")
                 for n in added}  # fmt: skip
        shared = (shared - added) | norms
        widths = [on.widths[i] for i in on.last_of_stages]
        count += sum(2 * 6 * d - 3 * 12 * d for d in widths)
    if options.get("plus"):
        merging = {n.removesuffix("weight") for n in on.sizes if "reduction" in n}
        shared |= {f"{name}lora_{factor}" for name in merging for factor in "AB"}
        count += sum(3 * 6 * d for d in on.widths[1:-1])  # from 4 d to 2 d
    last = f"{on.blocks[-1]}.{on.layers['fc2']}."  # its shared output goes nowhere
    idle = {name for name in shared if name.startswith(last) and options.get("mode") != "matrixv2"}
    tasks = T * 2 * sum(2 * on.widths[i] + on.lora_mlp(on.widths[i]) for i in on.last_of_stages)
    return Row(
        dict(type="MTLoRA", rank=3, task_rank=2, dropout=0.0, **options),
        shared | tails | own,
        count + tasks + sum(on.sizes[name] for name in own),
        tolerance=1e-6 if several else 0.0,
        idle=frozenset(idle),
        steps=3,
    )


def _side(on: Encoder) -> Row:
    """SideVMT with d / 4 channels, and 4 of the image."""
    channels = [on.widths[i] for i in on.last_of_stages]
    mixing = ("norm", "inner", "depthwise", "outer")
    trains, count = {f"prior.{x}.{i}" for x in ("convs", "norms") for i in range(3)}, 0
    count += (27 * 4 + 4) + 2 * (9 * 16 + 4) + 3 * 2 * 4

    def mix(w: int, kernel: int) -> int:
        return 2 * w + (2 * w * w + 2 * w) + 2 * w * (kernel**2 + 1) + (2 * w * w + w)

    for n, d in enumerate(channels):
        w, fine, stage = d // 4, n < 2, f"stages.{n}."
        layers = ["norm", "down", "up", *(f"mixing.{x}" for x in mixing)]
        layers += ["from_prior", "from_top", *(f"fusion.{x}" for x in mixing)] if fine else []
        merges = n > 0 and channels[n - 1] != d
        trains |= {stage + x for x in [*layers, *(["merge"] if merges else [])]}
        count += 2 * d + (d * w + w) + 1 + mix(w, 5) + (w * d + d) + 2 * T * w
        count += (4 + 1) * w + (channels[-1] // 4 + 1) * w + mix(w, 3) if fine else 0
        count += 4 * channels[n - 1] // 4 * w + w if merges else 0
    names = {f"peft.{name}.{kind}" for name in trains for kind in ("weight", "bias")}
    for n in range(4):
        names |= {f"peft.stages.{n}.{part}.{t}" for part in ("alpha", "beta") for t in TASKS}
        names.add(f"peft.stages.{n}.gate_logit")
    return Row(dict(type="SideVMT", ratio=4, prior=4), frozenset(names), count, tolerance=1e-6)


def _shared(on: Encoder) -> dict[str, Row]:
    """Methods that serve all tasks in one pass."""
    biases = frozenset(name for name in on.sizes if "bias" in name)
    rows = {
        "VMTAdapter": Row(
            dict(type="VMTAdapter", ratio=4),
            on.of_blocks(
                "norm.weight", "norm.bias", "down.weight", "up.weight", "up.bias", *_SCALES
            ),
            on.total(lambda d: 2 * d + 2 * d * d // 4 + d + 2 * T * d),
        ),
        "VMTAdapter-learnable": Row(
            dict(type="VMTAdapter", learnable_gate=True, down_bias=True),
            on.of_blocks(*_BOTTLENECK, *_SCALES, "gate_logit"),
            on.total(lambda d: 2 * d + 2 * d * d // 4 + d // 4 + d + 2 * T * d + 1),
        ),
        "VMTAdapterLite": Row(
            dict(type="VMTAdapterLite", m=5, ratio=2),
            on.of_blocks("shared", "down", "up", *_SCALES),
            on.total(lambda d: 5**3 + 2 * d * (d // 2) // 5 + 2 * T * d),
        ),
        "VMTAdapterLite-biases": Row(
            dict(type="VMTAdapterLite", m=2, ratio=1, down_bias=True, up_bias=True),
            on.of_blocks("shared", "down", "up", "down_bias", "up_bias", *_SCALES),
            on.total(lambda d: 2**3 + 2 * d * d // 2 + 2 * d + 2 * T * d),
        ),
        "DecodersOnly": Row(dict(type="DecodersOnly"), frozenset(), 0),
        "SideVMT": _side(on),
        "FullFineTuning": Row(
            dict(type="FullFineTuning"),
            frozenset(on.sizes),
            sum(on.sizes.values()),
            from_the_start=True,
        ),
        "Adapter": Row(
            dict(type="Adapter", ratio=2, scale=0.5),
            on.of_blocks(*_BOTTLENECK),
            on.total(lambda d: d * d + 7 * d // 2),  # 2 d k + LN 2 d + k + d
        ),
        "LowRankAdapter": Row(
            dict(type="LowRankAdapter", ratio=4, rank=2),
            on.of_blocks(*_FACTORED),
            on.total(lambda d: 2 * 2 * (d + d // 4) + d + d // 4),
        ),
        "LoRA": Row(
            dict(type="LoRA", rank=2, alpha=4, train_norm=True),
            on.of_layers(*_lora("q", "v"), "{norm1}.weight", "{norm1}.bias"),
            on.total(lambda d: 2 * 2 * 2 * d + 2 * d),
        ),
        "DoRA": Row(
            dict(type="LoRA", rank=2, targets=("k", "v", "proj"), use_rslora=True, use_dora=True),
            on.of_layers(*_lora("k", "v", "proj", factors=("A", "B", "magnitude"))),
            on.total(lambda d: 3 * (2 * 2 * d + d)),
        ),
        "Mona": Row(
            dict(type="Mona", hidden=6, dropout=0),
            on.of_blocks(*_MONA),
            on.total(lambda d: 2 * _mona(d, 6)),
        ),
        "VMTMona": Row(
            dict(type="VMTMona", hidden=4, dropout=0, gate=0.3),
            on.of_blocks(*_MONA, *_SCALES),
            on.total(lambda d: 2 * _mona(d, 4) + 2 * T * d),
        ),
        "LoRA-all": Row(
            dict(type="LoRA", rank=3, targets=("fc2", "k", "proj", "fc1")),
            on.of_layers(*_lora("k", "proj", "fc1", "fc2")),
            on.total(lambda d: 3 * (2 * d + 2 * d + on.lora_mlp(d))),
        ),
        "MTLoRA": _mtlora(on),
        "BitFit": Row(
            dict(type="BitFit"), biases, sum(on.sizes[name] for name in biases), from_the_start=True
        ),
    }
    if on.table_heads:
        rows["MTLoRA-plus"] = _mtlora(on, plus=True, mode="matrixv2")
        rows["MTLoRA-addition"] = _mtlora(on, mode="addition")
        rows["RelativeBias"] = Row(
            dict(type="RelativeBias"), on.of_layers("{table}"), 13**2 * sum(on.table_heads)
        )
    return rows


def _multiple(row: Row) -> Row:
    """The row of a method's Multiple form: T copies of the trainable parameters."""
    own = {name.replace("peft.blocks", "peft.method.blocks") for name in row.trains}
    return Row(
        dict(type="PerTask", method=row.peft),
        frozenset(
            f"peft.copies.{task}.{name.replace('.', '__')}" for task in TASKS for name in own
        ),
        T * row.count,
        per_task=True,
        from_the_start=row.from_the_start,
    )


def _progressive(row: Row, on: Encoder, per_block: Callable[[int], int], first: int) -> Row:
    """PerTask with the parameters of a row: copies from stage ``first`` on, per task in stage 3."""
    trains = set()
    for name in row.trains:
        inner = name.replace("peft.blocks", "peft.method.blocks")
        flat, stage = inner.replace(".", "__"), on.stage_of(name)
        if stage == 3:
            trains |= {f"peft.copies.{task}.{flat}" for task in TASKS}
        else:
            trains.add(f"peft.group_copies.all.{flat}" if stage >= first else inner)
    peft = dict(type="PerTask", method=row.peft, from_stage=first)
    if first < 3:  # some tests have a third task
        peft |= dict(groups=dict(all=[*TASKS, "saliency", "depth", "edge"]), tasks_from_stage=3)
    count = on.total(per_block) + (T - 1) * on.total(per_block, from_stage=3)
    return Row(peft, frozenset(trains), count, per_task=True)


def _rows(on: Encoder) -> dict[str, Row]:
    """The table for one backbone."""
    shared, c = _shared(on), min(on.widths)
    copied = ("Adapter", "LowRankAdapter", "LoRA", "DoRA", "Mona", "BitFit", "RelativeBias")
    copied += ("FullFineTuning",)
    return {
        **shared,
        **{f"PerTask-{name}": _multiple(shared[name]) for name in copied if name in shared},
        "PerTask-late": _progressive(shared["LoRA"], on, lambda d: 8 * d + 2 * d, first=3),
        "PerTask-groups": _progressive(
            shared["Adapter"], on, lambda d: d * d + 7 * d // 2, first=1
        ),
        "Hyperformer": Row(
            dict(type="Hyperformer", ratio=4, embedding=6),
            _EMBEDDINGS
            | {
                f"peft.generators.{i}.{place}.{name}"
                for i in range(len(on.blocks))
                for place in ("after_attn", "after_mlp")
                for name in ("weight", "bias")
            },
            6 * T + on.total(lambda d: 2 * 7 * (2 * d * (d // 4) + d // 4 + d + 2 * d)),
            per_task=True,
        ),
        "Polyhistor": Row(
            dict(type="Polyhistor", ratio=4, embedding=6, rank=2),
            _EMBEDDINGS
            | {
                f"peft.generators.{i}.{name}" for i in range(len(on.blocks)) for name in _DECOMPOSED
            },
            6 * T + on.total(lambda d: 2 * 7 * 2 * (d + d // 4)),
            per_task=True,
        ),
        "PolyhistorLite": Row(
            dict(type="PolyhistorLite", ratio=2, embedding=6, rank=3),
            _EMBEDDINGS
            | {f"peft.templates.{name}" for name in _DECOMPOSED}
            | {
                f"peft.kernels.{i}.{name}" for i in range(len(on.blocks)) for name in ("down", "up")
            },
            6 * T + 2 * 7 * 3 * (c + c // 2) + on.total(lambda d: 2 * (d // c) ** 2),
            per_task=True,
        ),
    }


#: Backbone -> method -> what it must satisfy.
METHODS = {name: _rows(on) for name, on in ENCODERS.items()}
#: One method of each kind, tested on every backbone: shared, one copy per task, wrapped layers,
#: task tails.
_KINDS = ("VMTAdapter", "PerTask-Adapter", "LoRA", "MTLoRA")


class Case(NamedTuple):
    """Names of a backbone and a method."""

    encoder: str
    method: str

    @property
    def on(self) -> Encoder:
        """The backbone."""
        return ENCODERS[self.encoder]

    @property
    def row(self) -> Row:
        """The method's row for this backbone."""
        return METHODS[self.encoder][self.method]


def _param(case: Case):
    everywhere = case.encoder == next(iter(ENCODERS)) or case.method in (*_KINDS, *case.on.own)
    marks = () if everywhere else pytest.mark.every_backbone
    return pytest.param(case, id="-".join(case), marks=marks)


#: Every method on every backbone, for ``parametrize("case", CASES)``; some only run on demand.
CASES = [_param(Case(encoder, name)) for encoder, rows in METHODS.items() for name in rows]


def build_model(
    peft: Mapping,
    tasks: Mapping = TASKS,
    channels: int = 8,
    on: Encoder = SWIN,
    head: str = "MLPHead",
    **backbone,
) -> nn.Module:
    """A model with initial values."""
    model = MODELS.build(
        dict(
            type="MultiTaskSegmentor",
            tasks=tasks,
            backbone=dict(allow_random_backbone=True, peft=peft, **on.config, **backbone),
            head=dict(type=head, channels=channels),
        )
    )
    model.backbone.init_weights()
    return model


def scatter(model: nn.Module, scale: float = 0.05) -> nn.Module:
    """Add noise to the trainable parameters, so that none is 0 because it starts at 0."""
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data += scale * parameter.data.new_empty(parameter.shape).normal_()
    return model


class Probe(PEFTMethod):
    """Hooks with nonlinear functions, so that a wrong order of operations is visible."""

    def after_attn(self, index, out, grid):
        return out + out.square() * (index + 1)

    def after_mlp(self, index, out, grid):
        return out + out.square() * (index + 2)

    def parallel_to_mlp(self, index, y, grid):
        return SideOutput(residual=y.sin(), task_feature=y.cos() * (index + 1))


class ConvolvesPatches(PEFTMethod):
    """Depthwise 3x3 convolutions of the patches on their grid, in every hook of a block."""

    places = ("after_attn", "after_mlp", "parallel")

    def attach(self, backbone):
        self.blocks = nn.ModuleList(
            nn.ParameterDict({p: nn.Parameter(torch.empty(b.channels, 3, 3)) for p in self.places})
            for b in backbone.block_specs
        )

    def reset_from_pretrained(self, backbone):
        for weight in self.blocks.parameters():
            nn.init.normal_(weight, std=0.1)

    def convolve(self, x, weight, grid):
        patches = x[:, grid.prefix :].transpose(1, 2).unflatten(2, (grid.height, grid.width))
        mixed = F.conv2d(patches, weight[:, None], padding=1, groups=len(weight))
        return torch.cat((x[:, : grid.prefix], mixed.flatten(2).transpose(1, 2)), dim=1)

    def after_attn(self, index, out, grid):
        return self.convolve(out, self.blocks[index]["after_attn"], grid)

    def after_mlp(self, index, out, grid):
        return self.convolve(out, self.blocks[index]["after_mlp"], grid)

    def parallel_to_mlp(self, index, y, grid):
        return SideOutput(residual=self.convolve(y, self.blocks[index]["parallel"], grid))
