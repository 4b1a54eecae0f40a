"""The field's benchmarks: class names and colours only, the layout is the common one."""

from vmt_mm.datasets.multi_task_dataset import MultiTaskDataset
from vmt_mm.registry import DATASETS
from vmt_mm.tasks.segmentation import voc_palette

_VOC = (
    *("background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair"),
    *("cow", "diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa"),
    *("train", "tvmonitor"),
)
_PARTS = ("background", "head", "torso", "upper arms", "lower arms", "upper legs", "lower legs")
#: The 40 classes of Gupta et al., CVPR 2013.
_NYUD = (
    *("wall", "floor", "cabinet", "bed", "chair", "sofa", "table", "door", "window", "bookshelf"),
    *("picture", "counter", "blinds", "desk", "shelves", "curtain", "dresser", "pillow", "mirror"),
    *("floor mat", "clothes", "ceiling", "books", "refrigerator", "television", "paper", "towel"),
    *("shower curtain", "box", "whiteboard", "person", "night stand", "toilet", "sink", "lamp"),
    *("bathtub", "bag", "other structure", "other furniture", "other prop"),
)


@DATASETS.register_module()
class PASCALContextMT(MultiTaskDataset):
    """PASCAL-Context multi-task (4,998 / 5,105 images) in the layout of MultiTaskDataset."""

    METAINFO = dict(
        semseg=dict(classes=_VOC, palette=voc_palette(21).tolist()),
        human_parts=dict(classes=_PARTS, palette=voc_palette(7).tolist()),
    )


@DATASETS.register_module()
class NYUDMT(MultiTaskDataset):
    """NYU Depth v2 multi-task (795 / 654 images) in the layout of MultiTaskDataset."""

    # There is no background class, and so none in VOC's black.
    METAINFO = dict(semseg=dict(classes=_NYUD, palette=voc_palette(41)[1:].tolist()))
