# Multiple Relative bias (Table 2): tables of relative positions a task, one pass a task.
#   tools/dist_train.sh configs/baselines/multiple_relative_bias_swin-t_pascal.py 4
_base_ = '../vmt/vmt_swin-t_pascal.py'
model = dict(
    backbone=dict(
        peft=dict(_delete_=True, type='PerTask', method=dict(type='RelativeBias'))))
