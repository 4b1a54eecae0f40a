"""Backbones, heads and the model that combines them."""

from vmt_mm.models.backbones import MultiTaskSwin, MultiTaskTimmViT, MultiTaskViT
from vmt_mm.models.data_preprocessor import MultiTaskDataPreprocessor
from vmt_mm.models.heads import DPTHead, HRNetHead, MLPHead
from vmt_mm.models.multi_task_segmentor import MultiTaskSegmentor
from vmt_mm.models.test_time_aug import MultiTaskTTAModel

__all__ = [
    "DPTHead",
    "HRNetHead",
    "MLPHead",
    "MultiTaskDataPreprocessor",
    "MultiTaskSegmentor",
    "MultiTaskSwin",
    "MultiTaskTTAModel",
    "MultiTaskTimmViT",
    "MultiTaskViT",
]
