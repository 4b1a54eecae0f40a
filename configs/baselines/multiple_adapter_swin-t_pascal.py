# Multiple Adapter (Table 2): adapters parallel to every MLP, one set per task; one pass per task.
# Swin-T, PASCAL-Context.
#   tools/dist_train.sh configs/baselines/multiple_adapter_swin-t_pascal.py 4
_base_ = '../vmt/vmt_swin-t_pascal.py'
model = dict(
    backbone=dict(
        peft=dict(_delete_=True, type='PerTask', method=dict(type='Adapter', ratio=2))))
