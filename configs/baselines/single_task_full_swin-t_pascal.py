# Single-task full fine-tuning (Table 2), what Delta compares with: one model a task.
# A configuration stands for all tasks of its list; the others:
#   tools/dist_train.sh configs/baselines/single_task_full_swin-t_pascal.py 4 --cfg-options task=normals
_base_ = './multi_task_full_swin-t_pascal.py'
task = 'semseg'
