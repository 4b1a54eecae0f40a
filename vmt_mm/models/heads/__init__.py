"""Heads that work for any task."""

from vmt_mm.models.heads.build import build_head
from vmt_mm.models.heads.factored import HRNetHead, MLPHead

__all__ = ["HRNetHead", "MLPHead", "build_head"]
