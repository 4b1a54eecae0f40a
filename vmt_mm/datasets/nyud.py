"""NYU Depth v2 with the field's tasks: metainfo only, the layout is the common one."""

from vmt_mm.datasets.multi_task_dataset import MultiTaskDataset
from vmt_mm.registry import DATASETS
from vmt_mm.tasks.segmentation import voc_palette

#: The 40 classes of Gupta et al., CVPR 2013.
SEMSEG_CLASSES = (
    "wall",
    "floor",
    "cabinet",
    "bed",
    "chair",
    "sofa",
    "table",
    "door",
    "window",
    "bookshelf",
    "picture",
    "counter",
    "blinds",
    "desk",
    "shelves",
    "curtain",
    "dresser",
    "pillow",
    "mirror",
    "floor mat",
    "clothes",
    "ceiling",
    "books",
    "refrigerator",
    "television",
    "paper",
    "towel",
    "shower curtain",
    "box",
    "whiteboard",
    "person",
    "night stand",
    "toilet",
    "sink",
    "lamp",
    "bathtub",
    "bag",
    "other structure",
    "other furniture",
    "other prop",
)


@DATASETS.register_module()
class NYUDMT(MultiTaskDataset):
    """NYU Depth v2 multi-task (795 / 654 images) in the layout of MultiTaskDataset."""

    METAINFO = dict(
        # There is no background class, and so none in VOC's black.
        semseg=dict(classes=SEMSEG_CLASSES, palette=voc_palette(41)[1:].tolist()),
    )
