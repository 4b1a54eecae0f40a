# Multiple Low-rank adapter: one set of adapters with low-rank projections per task; one pass per
# task. Swin-nano, rendered scenes.
#   python tools/train.py configs/baselines/multiple_low_rank_adapter_swin-nano_shapes.py
_base_ = '../vmt/vmt_swin-nano_shapes.py'
model = dict(
    backbone=dict(
        peft=dict(
            _delete_=True, type='PerTask',
            method=dict(type='LowRankAdapter', ratio=4, rank=2))))
