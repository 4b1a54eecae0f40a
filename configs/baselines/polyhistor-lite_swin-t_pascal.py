# Polyhistor-Lite (Table 2): hypernetworks generate template matrices per task, each block scales
# them; one pass per task. Swin-T, PASCAL-Context.
#   tools/dist_train.sh configs/baselines/polyhistor-lite_swin-t_pascal.py 4
_base_ = '../vmt/vmt_swin-t_pascal.py'
model = dict(
    backbone=dict(
        peft=dict(_delete_=True, type='PolyhistorLite', ratio=2, embedding=64, rank=22)))
