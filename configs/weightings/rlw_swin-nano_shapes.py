# VMT-Adapter with random loss weighting (RLW, arXiv:2111.10603).
# Swin-nano, rendered scenes.
#   python tools/train.py configs/weightings/rlw_swin-nano_shapes.py
_base_ = '../vmt/vmt_swin-nano_shapes.py'
model = dict(weighting=dict(type='RandomWeighting'))
