# Shared BitFit (Table 2): every bias trains.
#   tools/dist_train.sh configs/baselines/shared_bitfit_swin-t_pascal.py 4
_base_ = '../vmt/vmt_swin-t_pascal.py'
model = dict(backbone=dict(peft=dict(_delete_=True, type='BitFit')))
