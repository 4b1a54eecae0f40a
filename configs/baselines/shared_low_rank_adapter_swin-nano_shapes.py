# Shared Low-rank adapter: adapters with low-rank projections, shared by all tasks.
# Swin-nano, rendered scenes.
#   python tools/train.py configs/baselines/shared_low_rank_adapter_swin-nano_shapes.py
_base_ = '../vmt/vmt_swin-nano_shapes.py'
model = dict(backbone=dict(peft=dict(_delete_=True, type='LowRankAdapter', ratio=4, rank=2)))
