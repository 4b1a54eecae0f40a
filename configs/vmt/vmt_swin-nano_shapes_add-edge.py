# A fifth task for a trained model of four: its scales and its head train, everything else stays.
#   python tools/train.py configs/vmt/vmt_swin-nano_shapes.py
#   python tools/train.py configs/vmt/vmt_swin-nano_shapes_add-edge.py
_base_ = './vmt_swin-nano_shapes.py'
tasks = dict(edge=dict(type='Edge', loss_weight=5.0))  # joins those of the file below
model = dict(new_tasks=['edge'])
train_dataloader = dict(dataset=dict(tasks=['edge']))  # the other labels are not needed to train
load_from = 'work_dirs/vmt_swin-nano_shapes/epoch_24.pth'
train_cfg = dict(max_epochs=8, val_interval=4)
default_hooks = dict(checkpoint=dict(save_best='edge/boundaryF'))
