# Polyhistor-Lite (Table 2): templates of all layers, scaled for each; one pass a task.
#   tools/dist_train.sh configs/baselines/polyhistor-lite_swin-t_pascal.py 4
_base_ = '../vmt/vmt_swin-t_pascal.py'
model = dict(
    backbone=dict(
        peft=dict(_delete_=True, type='PolyhistorLite', ratio=2, embedding=64, rank=22)))
