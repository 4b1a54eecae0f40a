# Single-task full fine-tuning (Table 2), the reference of Delta: one model per task, selected by
# `task`. Swin-T, PASCAL-Context.
#   tools/dist_train.sh configs/baselines/single_task_full_swin-t_pascal.py 4 --cfg-options task=normals
_base_ = './multi_task_full_swin-t_pascal.py'
task = 'semseg'
