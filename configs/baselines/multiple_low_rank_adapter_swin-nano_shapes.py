# Multiple Low-rank adapter: one a task, one pass a task.
#   python tools/train.py configs/baselines/multiple_low_rank_adapter_swin-nano_shapes.py
_base_ = '../vmt/vmt_swin-nano_shapes.py'
model = dict(
    backbone=dict(
        peft=dict(
            _delete_=True, type='PerTask',
            method=dict(type='LowRankAdapter', ratio=4, rank=2))))
