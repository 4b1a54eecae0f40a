"""PASCAL-Context with the field's tasks: metainfo only, the layout is the common one."""

from vmt_mm.datasets.multi_task_dataset import MultiTaskDataset
from vmt_mm.registry import DATASETS
from vmt_mm.tasks.segmentation import voc_palette

SEMSEG_CLASSES = (
    "background",
    "aeroplane",
    "bicycle",
    "bird",
    "boat",
    "bottle",
    "bus",
    "car",
    "cat",
    "chair",
    "cow",
    "diningtable",
    "dog",
    "horse",
    "motorbike",
    "person",
    "pottedplant",
    "sheep",
    "sofa",
    "train",
    "tvmonitor",
)
PART_CLASSES = (
    "background",
    "head",
    "torso",
    "upper arms",
    "lower arms",
    "upper legs",
    "lower legs",
)


@DATASETS.register_module()
class PASCALContextMT(MultiTaskDataset):
    """PASCAL-Context multi-task (4,998 / 5,105 images) in the layout of MultiTaskDataset."""

    METAINFO = dict(
        semseg=dict(classes=SEMSEG_CLASSES, palette=voc_palette(21).tolist()),
        human_parts=dict(classes=PART_CLASSES, palette=voc_palette(7).tolist()),
    )
