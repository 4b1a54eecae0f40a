# Single-task full fine-tuning: one model per task, selected by `task`. Swin-nano, rendered scenes.
#   python tools/train.py configs/baselines/single_task_full_swin-nano_shapes.py --cfg-options task=normals
_base_ = './multi_task_full_swin-nano_shapes.py'
task = 'semseg'
