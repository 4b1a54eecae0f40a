"""Data structures."""

from vmt_mm.structures.deferred_warp import DeferredWarp
from vmt_mm.structures.multi_task_data_sample import MultiTaskDataSample

__all__ = ["DeferredWarp", "MultiTaskDataSample"]
