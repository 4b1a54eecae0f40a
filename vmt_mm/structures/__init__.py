"""Data samples and deferred warps."""

from vmt_mm.structures.deferred_warp import DeferredWarp as DeferredWarp
from vmt_mm.structures.multi_task_data_sample import MultiTaskDataSample as MultiTaskDataSample
