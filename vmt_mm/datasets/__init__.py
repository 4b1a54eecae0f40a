"""Datasets in the project's folder layout, their transforms and sampler."""

from vmt_mm.datasets.benchmarks import NYUDMT, PASCALContextMT
from vmt_mm.datasets.concat import ConcatDataset
from vmt_mm.datasets.multi_task_dataset import MultiTaskDataset
from vmt_mm.datasets.sampler import SeededIndex, SeededSampler
from vmt_mm.datasets.shapes import ShapesMT

__all__ = ["NYUDMT", "ConcatDataset", "MultiTaskDataset", "PASCALContextMT", "ShapesMT"]
__all__ += ["SeededIndex", "SeededSampler"]
