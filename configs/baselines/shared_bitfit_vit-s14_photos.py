# Shared BitFit: every bias trains.
#   python tools/train.py configs/baselines/shared_bitfit_vit-s14_photos.py --cfg-options data_root=FOLDER pretrained=FILE
_base_ = '../_base_/vit-s14_photos.py'
model = dict(backbone=dict(peft=dict(type='BitFit')))
