# Multiple BitFit (Table 2): a set of biases a task, one pass a task.
#   tools/dist_train.sh configs/baselines/multiple_bitfit_swin-t_pascal.py 4
_base_ = '../vmt/vmt_swin-t_pascal.py'
model = dict(backbone=dict(peft=dict(_delete_=True, type='PerTask', method=dict(type='BitFit'))))
