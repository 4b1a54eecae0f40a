# Single-task full fine-tuning with HRNet-style heads (Fig. 5b): one model per task, selected by
# `task`. Swin-T, PASCAL-Context.
#   tools/dist_train.sh configs/baselines/single_task_full_swin-t_pascal_hrnet.py 4 --cfg-options task=normals
_base_ = '../vmt/vmt_swin-t_pascal_hrnet.py'
task = 'semseg'
model = dict(backbone=dict(peft=dict(_delete_=True, type='FullFineTuning')))
