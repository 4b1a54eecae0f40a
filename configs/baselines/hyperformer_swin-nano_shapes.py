# Hyperformer: hypernetworks make every task's adapters, one pass a task.
#   python tools/train.py configs/baselines/hyperformer_swin-nano_shapes.py
_base_ = '../vmt/vmt_swin-nano_shapes.py'
model = dict(backbone=dict(peft=dict(_delete_=True, type='Hyperformer', ratio=4, embedding=8)))
