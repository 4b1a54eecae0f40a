# VMT-Adapter with FAMO (arXiv:2306.03792), which measures progress on the next batch.
# Swin-nano, rendered scenes.
#   python tools/train.py configs/weightings/famo_swin-nano_shapes.py
_base_ = '../vmt/vmt_swin-nano_shapes.py'
model = dict(weighting=dict(type='FAMO'))
