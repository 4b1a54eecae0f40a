"""Heads that work for any task."""

from vmt_mm.models.heads.build import build_head
from vmt_mm.models.heads.dpt import DPTHead
from vmt_mm.models.heads.factored import HRNetHead, MLPHead

__all__ = ["DPTHead", "HRNetHead", "MLPHead", "build_head"]
