"""PEFT methods: one small file each."""

from vmt_mm.peft.full import DecodersOnly, FullFineTuning
from vmt_mm.peft.method import Branch, PEFTMethod, build_method
from vmt_mm.peft.vmt_adapter import VMTAdapter

__all__ = [
    "Branch",
    "DecodersOnly",
    "FullFineTuning",
    "PEFTMethod",
    "VMTAdapter",
    "build_method",
]
