"""Task-blind heads."""

from vmt_mm.models.heads.build import build_head
from vmt_mm.models.heads.hrnet_head import HRNetHead
from vmt_mm.models.heads.mlp_head import MLPHead

__all__ = ["HRNetHead", "MLPHead", "build_head"]
