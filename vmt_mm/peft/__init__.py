"""PEFT methods: one small file each."""

from vmt_mm.peft.adapter import Adapter, LowRankAdapter
from vmt_mm.peft.bitfit import BitFit
from vmt_mm.peft.full import DecodersOnly, FullFineTuning
from vmt_mm.peft.hyperformer import Hyperformer
from vmt_mm.peft.lora import LoRA
from vmt_mm.peft.method import BlockSpec, Branch, Encoder, PEFTMethod, build_method
from vmt_mm.peft.per_task import PerTask
from vmt_mm.peft.polyhistor import Polyhistor, PolyhistorLite
from vmt_mm.peft.relative_bias import RelativeBias
from vmt_mm.peft.vmt_adapter import VMTAdapter, VMTAdapterLite

__all__ = [
    "Adapter",
    "BitFit",
    "BlockSpec",
    "Branch",
    "DecodersOnly",
    "Encoder",
    "FullFineTuning",
    "Hyperformer",
    "LoRA",
    "LowRankAdapter",
    "PEFTMethod",
    "PerTask",
    "Polyhistor",
    "PolyhistorLite",
    "RelativeBias",
    "VMTAdapter",
    "VMTAdapterLite",
    "build_method",
]
