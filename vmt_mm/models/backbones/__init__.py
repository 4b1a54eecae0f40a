"""Encoders with a seam for PEFT methods."""

from vmt_mm.models.backbones.seam import AdaptedEncoder
from vmt_mm.models.backbones.swin import MultiTaskSwin
from vmt_mm.models.backbones.vit import MultiTaskViT

__all__ = ["AdaptedEncoder", "MultiTaskSwin", "MultiTaskViT"]
