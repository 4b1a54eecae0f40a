"""Backbones that a PEFT method can adapt."""

from vmt_mm.models.backbones.peft_backbone import PEFTBackbone
from vmt_mm.models.backbones.swin import MultiTaskSwin
from vmt_mm.models.backbones.timm_vit import MultiTaskTimmViT
from vmt_mm.models.backbones.vit import MultiTaskViT

__all__ = ["PEFTBackbone", "MultiTaskSwin", "MultiTaskTimmViT", "MultiTaskViT"]
