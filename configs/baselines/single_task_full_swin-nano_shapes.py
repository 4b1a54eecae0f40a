# Single-task full fine-tuning: one model a task, this one for `task`.
# A configuration stands for all tasks of its list; the others:
#   python tools/train.py configs/baselines/single_task_full_swin-nano_shapes.py --cfg-options task=normals
_base_ = './multi_task_full_swin-nano_shapes.py'
task = 'semseg'
