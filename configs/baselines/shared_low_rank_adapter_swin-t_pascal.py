# Shared Low-rank adapter (Table 2): adapters with low-rank projections, shared by all tasks.
# Swin-T, PASCAL-Context.
#   tools/dist_train.sh configs/baselines/shared_low_rank_adapter_swin-t_pascal.py 4
_base_ = '../vmt/vmt_swin-t_pascal.py'
model = dict(backbone=dict(peft=dict(_delete_=True, type='LowRankAdapter', ratio=8, rank=8)))
