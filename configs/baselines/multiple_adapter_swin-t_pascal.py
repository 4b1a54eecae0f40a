# Multiple Adapter (Table 2): one parallel adapter a task beside every MLP, one pass a task.
#   tools/dist_train.sh configs/baselines/multiple_adapter_swin-t_pascal.py 4
_base_ = '../vmt/vmt_swin-t_pascal.py'
model = dict(
    backbone=dict(
        peft=dict(_delete_=True, type='PerTask', method=dict(type='Adapter', ratio=2))))
