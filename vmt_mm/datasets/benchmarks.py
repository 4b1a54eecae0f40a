"""Standard benchmarks: class names and colours for the common folder layout."""

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
    """PASCAL-Context for multi-task learning: 4,998 training and 5,105 validation images."""

    METAINFO = dict(
        semseg=dict(classes=_VOC, palette=voc_palette(21).tolist()),
        human_parts=dict(classes=_PARTS, palette=voc_palette(7).tolist()),
    )


@DATASETS.register_module()
class NYUDMT(MultiTaskDataset):
    """NYU Depth v2 for multi-task learning: 795 training and 654 validation images."""

    # No background class, so VOC's black is left out.
    METAINFO = dict(semseg=dict(classes=_NYUD, palette=voc_palette(41)[1:].tolist()))
