# Single-task full fine-tuning (Fig. 5a): one model per task, selected by `task`.
# Swin-B, PASCAL-Context.
#   tools/dist_train.sh configs/baselines/single_task_full_swin-b_pascal.py 4 --cfg-options task=normals
_base_ = '../vmt/vmt_swin-b_pascal.py'
task = 'semseg'
model = dict(backbone=dict(peft=dict(_delete_=True, type='FullFineTuning')))
