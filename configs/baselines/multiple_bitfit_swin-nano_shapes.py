# Multiple BitFit: a set of biases a task, one pass a task.
#   python tools/train.py configs/baselines/multiple_bitfit_swin-nano_shapes.py
_base_ = '../vmt/vmt_swin-nano_shapes.py'
model = dict(backbone=dict(peft=dict(_delete_=True, type='PerTask', method=dict(type='BitFit'))))
