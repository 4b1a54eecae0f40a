# A fifth task for the trained four-task model: only the new task's scales, shifts and head are
# trained. Swin-nano, rendered scenes.
#   python tools/train.py configs/vmt/vmt_swin-nano_shapes.py
#   python tools/train.py configs/vmt/vmt_swin-nano_shapes_add-edge.py
_base_ = './vmt_swin-nano_shapes.py'
tasks = dict(edge=dict(type='Edge', loss_weight=5.0))  # added to the four tasks of the base config
model = dict(new_tasks=['edge'])
train_dataloader = dict(dataset=dict(tasks=['edge']))  # training needs no other labels
load_from = 'work_dirs/vmt_swin-nano_shapes/epoch_24.pth'
train_cfg = dict(max_epochs=8, val_interval=4)
default_hooks = dict(checkpoint=dict(save_best='edge/boundaryF'))
