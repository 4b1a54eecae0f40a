# Multiple Relative bias (Table 2): one set of relative-position tables per task; one pass per task.
# Swin-T, PASCAL-Context.
#   tools/dist_train.sh configs/baselines/multiple_relative_bias_swin-t_pascal.py 4
_base_ = '../vmt/vmt_swin-t_pascal.py'
model = dict(
    backbone=dict(
        peft=dict(_delete_=True, type='PerTask', method=dict(type='RelativeBias'))))
