"""The table of PEFT methods: one row enrols a method in every test of the contract."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from mmseg.models.backbones import SwinTransformer
from torch import nn

from vmt_mm.models.backbones.swin import ARCHITECTURES
from vmt_mm.registry import MODELS

TASKS = dict(
    semseg=dict(type="Segmentation", num_classes=4),
    normals=dict(type="Normals"),
)
#: Channels of Swin-nano's blocks.
WIDTHS = (20, 20, 40, 40, 80, 80, 160, 160)
BLOCKS = [f"stages.{stage}.blocks.{number}" for stage in range(4) for number in range(2)]
#: Names of the frozen encoder's parameters.
STOCK = [name for name, _ in SwinTransformer(**ARCHITECTURES["nano"]).named_parameters()]


@dataclass(frozen=True)
class Row:
    """What a method promises.

    Attributes:
        peft: its config.
        trains: exact names of what trains in the encoder.
        count: how many numbers that are, on Swin-nano, as arithmetic.
        per_task: whether the encoder runs once a task.
        from_the_start: whether the tasks differ from the patch embedding on.
    """

    peft: Mapping
    trains: frozenset[str] = field(repr=False)
    count: int
    per_task: bool = False
    from_the_start: bool = False


def _of_blocks(*names: str) -> frozenset[str]:
    return frozenset(f"peft.blocks.{i}.{name}" for i in range(len(BLOCKS)) for name in names)


def _of_layers(*names: str) -> frozenset[str]:
    return frozenset(f"{block}.{name}" for block in BLOCKS for name in names)


def _total(per_block: Callable[[int], int]) -> int:
    return sum(per_block(width) for width in WIDTHS)


_SCALES = [f"{part}.{task}" for part in ("alpha", "gamma") for task in TASKS]
_BOTTLENECK = ("norm.weight", "norm.bias", "down.weight", "down.bias", "up.weight", "up.bias")
_FACTORED = [f"{p}.{f}" for p in ("down", "up") for f in ("inner", "outer", "bias")]
_LORA = ("attn.w_msa.qkv.lora_A", "attn.w_msa.qkv.lora_B")
_EMBEDDINGS = frozenset(f"peft.embeddings.{task}" for task in TASKS)
_TABLES = _of_layers("attn.w_msa.relative_position_bias_table")
_BIASES = frozenset(name for name in STOCK if "bias" in name)
_DECOMPOSED = [f"{p}.{f}.{w}" for p in ("down", "up") for f in ("outer", "inner") for w in
               ("weight", "bias")]  # fmt: skip
T = len(TASKS)
_PARAMETERS = dict(SwinTransformer(**ARCHITECTURES["nano"]).named_parameters())
_SIZE = {name: parameter.numel() for name, parameter in _PARAMETERS.items()}
_N_BIASES = sum(_SIZE[name] for name in _BIASES)

_SHARED = {
    "VMTAdapter": Row(
        dict(type="VMTAdapter", ratio=4),
        _of_blocks("norm.weight", "norm.bias", "down.weight", "up.weight", "up.bias", *_SCALES),
        _total(lambda d: 2 * d + 2 * d * d // 4 + d + 2 * T * d),
    ),
    "VMTAdapter-learnable": Row(
        dict(type="VMTAdapter", learnable_gate=True, down_bias=True),
        _of_blocks(*_BOTTLENECK, *_SCALES, "gate_logit"),
        _total(lambda d: 2 * d + 2 * d * d // 4 + d // 4 + d + 2 * T * d + 1),
    ),
    "VMTAdapterLite": Row(
        dict(type="VMTAdapterLite", m=5, ratio=2),
        _of_blocks("shared", "down", "up", *_SCALES),
        _total(lambda d: 5**3 + 2 * d * (d // 2) // 5 + 2 * T * d),
    ),
    "VMTAdapterLite-biases": Row(
        dict(type="VMTAdapterLite", m=2, ratio=1, down_bias=True, up_bias=True),
        _of_blocks("shared", "down", "up", "down_bias", "up_bias", *_SCALES),
        _total(lambda d: 2**3 + 2 * d * d // 2 + 2 * d + 2 * T * d),
    ),
    "DecodersOnly": Row(dict(type="DecodersOnly"), frozenset(), 0),
    "FullFineTuning": Row(
        dict(type="FullFineTuning"), frozenset(STOCK), sum(_SIZE.values()), from_the_start=True
    ),
    "Adapter": Row(
        dict(type="Adapter", ratio=2, scale=0.5),
        _of_blocks(*_BOTTLENECK),
        _total(lambda d: d * d + 7 * d // 2),  # 2 d k + LN 2 d + k + d
    ),
    "LowRankAdapter": Row(
        dict(type="LowRankAdapter", ratio=4, rank=2),
        _of_blocks(*_FACTORED),
        _total(lambda d: 2 * 2 * (d + d // 4) + d + d // 4),
    ),
    "LoRA": Row(
        dict(type="LoRA", rank=2, alpha=4, train_norm=True),
        _of_layers(*_LORA, "norm1.weight", "norm1.bias"),
        _total(lambda d: 2 * 2 * 2 * d + 2 * d),
    ),
    "LoRA-all": Row(
        dict(type="LoRA", rank=3, targets=("fc2", "k", "proj", "fc1")),
        _of_layers(*_LORA, *(f"{layer}.lora_{x}" for x in "AB" for layer in
                             ("attn.w_msa.proj", "ffn.layers.0.0", "ffn.layers.1"))),
        _total(lambda d: 3 * (2 * d + 2 * d + 5 * d + 5 * d)),
    ),
    "BitFit": Row(dict(type="BitFit"), _BIASES, _N_BIASES, from_the_start=True),
    "RelativeBias": Row(
        dict(type="RelativeBias"), _TABLES, 13**2 * 2 * (1 + 2 + 4 + 8)
    ),
}  # fmt: skip


def _multiple(row: Row) -> Row:
    """The row of a method's Multiple form: T copies of what trains."""
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


METHODS: dict[str, Row] = {
    **_SHARED,
    **{
        f"PerTask-{name}": _multiple(_SHARED[name])
        for name in (
            "Adapter",
            "LowRankAdapter",
            "LoRA",
            "BitFit",
            "RelativeBias",
            "FullFineTuning",
        )
    },
    "Hyperformer": Row(
        dict(type="Hyperformer", ratio=4, embedding=6),
        _EMBEDDINGS
        | {
            f"peft.generators.{i}.{place}.{name}"
            for i in range(len(BLOCKS))
            for place in ("after_attn", "after_mlp")
            for name in ("weight", "bias")
        },
        6 * T + _total(lambda d: 2 * 7 * (2 * d * (d // 4) + d // 4 + d + 2 * d)),
        per_task=True,
    ),
    "Polyhistor": Row(
        dict(type="Polyhistor", ratio=4, embedding=6, rank=2),
        _EMBEDDINGS
        | {f"peft.generators.{i}.{name}" for i in range(len(BLOCKS)) for name in _DECOMPOSED},
        6 * T + _total(lambda d: 2 * 7 * 2 * (d + d // 4)),
        per_task=True,
    ),
    "PolyhistorLite": Row(
        dict(type="PolyhistorLite", ratio=2, embedding=6, rank=3),
        _EMBEDDINGS
        | {f"peft.templates.{name}" for name in _DECOMPOSED}
        | {f"peft.kernels.{i}.{name}" for i in range(len(BLOCKS)) for name in ("down", "up")},
        6 * T + 2 * 7 * 3 * (20 + 10) + 2 * 2 * (1 + 4 + 16 + 64),
        per_task=True,
    ),
}


def build_model(peft: Mapping, tasks: Mapping = TASKS, channels: int = 8, **backbone) -> nn.Module:
    """A model on Swin-nano with initial values."""
    model = MODELS.build(
        dict(
            type="MultiTaskSegmentor",
            tasks=tasks,
            backbone=dict(
                type="MultiTaskSwin", arch="nano", allow_random_backbone=True, peft=peft, **backbone
            ),
            head=dict(type="MLPHead", channels=channels),
        )
    )
    model.backbone.init_weights()
    return model


def scatter(model: nn.Module, scale: float = 0.05) -> nn.Module:
    """Move what trains off its initial values, so that nothing is 0 because it starts at 0."""
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data += scale * parameter.data.new_empty(parameter.shape).normal_()
    return model
