# Polyhistor (Table 2): decomposed hypernetworks generate adapters per task; one pass per task.
# Swin-T, PASCAL-Context.
#   tools/dist_train.sh configs/baselines/polyhistor_swin-t_pascal.py 4
_base_ = '../vmt/vmt_swin-t_pascal.py'
model = dict(
    backbone=dict(
        peft=dict(_delete_=True, type='Polyhistor', ratio=8, embedding=128, rank=5)))
