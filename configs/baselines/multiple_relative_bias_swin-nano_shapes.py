# Multiple Relative bias: one set of relative-position tables per task; one pass per task.
# Swin-nano, rendered scenes.
#   python tools/train.py configs/baselines/multiple_relative_bias_swin-nano_shapes.py
_base_ = '../vmt/vmt_swin-nano_shapes.py'
model = dict(
    backbone=dict(
        peft=dict(_delete_=True, type='PerTask', method=dict(type='RelativeBias'))))
