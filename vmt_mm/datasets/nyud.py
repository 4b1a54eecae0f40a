"""NYUD-v2 with the field's tasks: the layout is the common one."""

from vmt_mm.datasets.multi_task_dataset import MultiTaskDataset
from vmt_mm.registry import DATASETS


@DATASETS.register_module()
class NYUDMT(MultiTaskDataset):
    """NYUD-v2 multi-task (795 / 654 images) in the layout of MultiTaskDataset."""
