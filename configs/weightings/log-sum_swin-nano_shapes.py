# VMT-Adapter with the sum of the losses' logarithms.
# Swin-nano, rendered scenes.
#   python tools/train.py configs/weightings/log-sum_swin-nano_shapes.py
_base_ = '../vmt/vmt_swin-nano_shapes.py'
model = dict(weighting=dict(type='LogSum'))
