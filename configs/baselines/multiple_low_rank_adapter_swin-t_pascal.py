# Multiple Low-rank adapter (Table 2): one set of adapters with low-rank projections per task; one
# pass per task. Swin-T, PASCAL-Context.
#   tools/dist_train.sh configs/baselines/multiple_low_rank_adapter_swin-t_pascal.py 4
_base_ = '../vmt/vmt_swin-t_pascal.py'
model = dict(
    backbone=dict(
        peft=dict(
            _delete_=True, type='PerTask',
            method=dict(type='LowRankAdapter', ratio=8, rank=8))))
