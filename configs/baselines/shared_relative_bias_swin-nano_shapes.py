# Shared Relative bias: the relative-position tables are trained, shared by all tasks.
# Swin-nano, rendered scenes.
#   python tools/train.py configs/baselines/shared_relative_bias_swin-nano_shapes.py
_base_ = '../vmt/vmt_swin-nano_shapes.py'
model = dict(backbone=dict(peft=dict(_delete_=True, type='RelativeBias')))
