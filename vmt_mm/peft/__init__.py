"""PEFT methods: one small file each."""

from vmt_mm.peft.full import DecodersOnly, FullFineTuning
from vmt_mm.peft.method import BlockSpec, Branch, Encoder, PEFTMethod, build_method
from vmt_mm.peft.vmt_adapter import VMTAdapter

__all__ = [
    "BlockSpec",
    "Branch",
    "DecodersOnly",
    "Encoder",
    "FullFineTuning",
    "PEFTMethod",
    "VMTAdapter",
    "build_method",
]
