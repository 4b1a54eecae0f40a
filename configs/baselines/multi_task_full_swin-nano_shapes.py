# Multi-task full fine-tuning: every parameter of one encoder trains.
#   python tools/train.py configs/baselines/multi_task_full_swin-nano_shapes.py
_base_ = '../vmt/vmt_swin-nano_shapes.py'
model = dict(backbone=dict(peft=dict(_delete_=True, type='FullFineTuning')))
