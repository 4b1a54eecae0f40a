# Shared Adapter (Table 2): adapters parallel to every MLP, shared by all tasks.
# Swin-T, PASCAL-Context.
#   tools/dist_train.sh configs/baselines/shared_adapter_swin-t_pascal.py 4
_base_ = '../vmt/vmt_swin-t_pascal.py'
model = dict(backbone=dict(peft=dict(_delete_=True, type='Adapter', ratio=2)))
