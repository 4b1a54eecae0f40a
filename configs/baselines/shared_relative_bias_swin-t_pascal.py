# Shared Relative bias (Table 2): the relative-position tables are trained, shared by all tasks.
# Swin-T, PASCAL-Context.
#   tools/dist_train.sh configs/baselines/shared_relative_bias_swin-t_pascal.py 4
_base_ = '../vmt/vmt_swin-t_pascal.py'
model = dict(backbone=dict(peft=dict(_delete_=True, type='RelativeBias')))
