# VMT-Adapter with uncertainty weighting (UW, arXiv:1705.07115).
# Swin-nano, rendered scenes.
#   python tools/train.py configs/weightings/uncertainty_swin-nano_shapes.py
_base_ = '../vmt/vmt_swin-nano_shapes.py'
model = dict(weighting=dict(type='Uncertainty'))
