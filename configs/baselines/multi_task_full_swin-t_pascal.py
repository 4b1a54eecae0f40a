# Multi-task full fine-tuning (Table 2): all parameters of one backbone are trained.
# Swin-T, PASCAL-Context.
#   tools/dist_train.sh configs/baselines/multi_task_full_swin-t_pascal.py 4
_base_ = '../vmt/vmt_swin-t_pascal.py'
model = dict(backbone=dict(peft=dict(_delete_=True, type='FullFineTuning')))
