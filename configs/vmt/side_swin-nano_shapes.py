# SideVMT: a branch next to a backbone that gets no gradient. Swin-nano, rendered scenes.
#   python tools/train.py configs/vmt/side_swin-nano_shapes.py
_base_ = [
    '../_base_/models/swin_mlp.py', '../_base_/datasets/shapes.py',
    '../_base_/schedules/adam_60e.py', '../_base_/default_runtime.py'
]
pretrained = 'vmt_mm://swin_nano'
model = dict(
    backbone=dict(arch='nano', peft=dict(type='SideVMT')),
    head=dict(channels=64))
optim_wrapper = dict(optimizer=dict(lr=4e-3))
total_batch_size = 8
train_cfg = dict(max_epochs=24, val_interval=8)
default_hooks = dict(
    logger=dict(interval=5), checkpoint=dict(save_best='semseg/mIoU'))
