# Multi-task full fine-tuning: all parameters of one backbone are trained.
# Swin-nano, rendered scenes.
#   python tools/train.py configs/baselines/multi_task_full_swin-nano_shapes.py
_base_ = '../vmt/vmt_swin-nano_shapes.py'
model = dict(backbone=dict(peft=dict(_delete_=True, type='FullFineTuning')))
