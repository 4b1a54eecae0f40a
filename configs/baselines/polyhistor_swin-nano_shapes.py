# Polyhistor: decomposed hypernetworks make every task's adapters, one pass a task.
#   python tools/train.py configs/baselines/polyhistor_swin-nano_shapes.py
_base_ = '../vmt/vmt_swin-nano_shapes.py'
model = dict(
    backbone=dict(
        peft=dict(_delete_=True, type='Polyhistor', ratio=4, embedding=8, rank=4)))
