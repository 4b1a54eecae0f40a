"""mmseg's configs pass the check of keys."""

from pathlib import Path

import mmseg
import pytest
from mmengine.config import Config

from vmt_mm.config.check import check_keys
from vmt_mm.errors import InputError

FOLDER = Path(mmseg.__file__).parent / ".mim/configs"
PATHS = [p for p in sorted(FOLDER.glob("*/*.py")) if "_base_" not in p.parts]


@pytest.mark.skipif(not PATHS, reason="this build of mmseg comes without its configs")
def test_mmsegs_configs_pass():
    checked = 0
    for path in PATHS[::12]:
        text = path.read_text()
        if "mask2former" in path.name or "maskformer" in path.name or "mmdet" in text:
            continue  # these need a package that is not installed here
        check_keys(Config.fromfile(path))
        checked += 1
    assert checked > 20


def test_keys_that_builders_pop_are_accepted():
    sampler = dict(type="OHEMPixelSampler", thresh=0.7, min_kept=100)
    head = dict(type="SegformerHead", norm_cfg=dict(type="SyncBN", requires_grad=True))
    check_keys(
        dict(
            note=dict(type="anything", of="mine"),
            model=dict(type="EncoderDecoder", decode_head=dict(head, sampler=sampler)),
            val_evaluator=dict(type="IoUMetric", iou_metrics=["mIoU"]),
            optim_wrapper=dict(constructor="LayerDecayOptimizerConstructor"),
        )
    )
    with pytest.raises(InputError, match="no data sampler is named 'OHEMPixelSampler'"):
        check_keys(dict(train_dataloader=dict(sampler=sampler)))
