# VMT-Adapter with dynamic weight average (DWA, arXiv:1803.10704).
# Swin-nano, rendered scenes.
#   python tools/train.py configs/weightings/dwa_swin-nano_shapes.py
_base_ = '../vmt/vmt_swin-nano_shapes.py'
model = dict(weighting=dict(type='DynamicWeightAverage'))
