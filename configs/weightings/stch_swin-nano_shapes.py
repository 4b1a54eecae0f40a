# VMT-Adapter with smooth Tchebycheff scalarization (STCH, arXiv:2402.19078).
# Swin-nano, rendered scenes.
#   python tools/train.py configs/weightings/stch_swin-nano_shapes.py
_base_ = '../vmt/vmt_swin-nano_shapes.py'
model = dict(weighting=dict(type='SmoothTchebycheff', warmup_epochs=1))
