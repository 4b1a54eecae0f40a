# VMT-Adapter with dynamic weight average (DWA, arXiv:1803.10704).
# Swin-T, NYUD-v2.
#   python tools/train.py configs/weightings/dwa_swin-t_nyud.py \
#       --cfg-options data_root=FOLDER pretrained=FILE
_base_ = '../vmt/vmt_swin-t_nyud.py'
model = dict(weighting=dict(type='DynamicWeightAverage'))
