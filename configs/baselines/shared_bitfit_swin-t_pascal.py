# Shared BitFit (Table 2): all biases are trained, shared by all tasks. Swin-T, PASCAL-Context.
#   tools/dist_train.sh configs/baselines/shared_bitfit_swin-t_pascal.py 4
_base_ = '../vmt/vmt_swin-t_pascal.py'
model = dict(backbone=dict(peft=dict(_delete_=True, type='BitFit')))
