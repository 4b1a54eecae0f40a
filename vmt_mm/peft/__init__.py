"""PEFT methods, one file each."""

from vmt_mm.peft.adapter import Adapter, LowRankAdapter
from vmt_mm.peft.bitfit import BitFit
from vmt_mm.peft.full import DecodersOnly, FullFineTuning
from vmt_mm.peft.hyperformer import Hyperformer
from vmt_mm.peft.lora import LoRA
from vmt_mm.peft.method import (
    Backbone,
    BlockSpec,
    PEFTMethod,
    SideOutput,
    TokenGrid,
    attach_method,
    build_method,
)
from vmt_mm.peft.mona import Mona, VMTMona
from vmt_mm.peft.mtlora import MTLoRA
from vmt_mm.peft.per_task import PerTask
from vmt_mm.peft.polyhistor import Polyhistor, PolyhistorLite
from vmt_mm.peft.relative_bias import RelativeBias
from vmt_mm.peft.side import SideVMT
from vmt_mm.peft.vmt_adapter import VMTAdapter, VMTAdapterLite

__all__ = ["Backbone", "BlockSpec", "PEFTMethod", "SideOutput", "TokenGrid"]
__all__ += ["attach_method", "build_method"]
__all__ += ["Adapter", "BitFit", "DecodersOnly", "FullFineTuning", "Hyperformer", "LoRA"]
__all__ += ["LowRankAdapter", "MTLoRA", "PerTask", "Polyhistor", "PolyhistorLite", "RelativeBias"]
__all__ += ["Mona", "SideVMT", "VMTAdapter", "VMTAdapterLite", "VMTMona"]
