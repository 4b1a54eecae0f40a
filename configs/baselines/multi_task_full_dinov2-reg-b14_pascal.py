# Multi-task full fine-tuning: all parameters of one backbone are trained.
# DINOv2 ViT-B/14 with registers, PASCAL-Context.
#   tools/dist_train.sh configs/baselines/multi_task_full_dinov2-reg-b14_pascal.py 4
_base_ = '../vmt/vmt_dinov2-reg-b14_pascal.py'
model = dict(backbone=dict(peft=dict(_delete_=True, type='FullFineTuning')))
