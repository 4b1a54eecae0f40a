# SideVMT for seven tasks at once, with kept features: four augmentations per image, whose maps stay on
# disk after the first time (1 MB each, 6 GB in work_dirs/features). DINOv2-style ViT-S/14, NYUD-v2 and
# photographs.
#   make weights
#   python tools/train.py configs/vmt/side_vit-s14_seven-tasks.py
#   python tools/model_converters/export_adapter.py configs/vmt/side_vit-s14_seven-tasks.py \
#       work_dirs/side_vit-s14_seven-tasks/epoch_20.pth seven-tasks.safetensors --half
# Data: data/nyud and data/photos_mt (docs/data.md).
_base_ = [
    '../_base_/models/vit_mlp.py', '../_base_/datasets/seven_tasks.py', '../_base_/schedules/adamw_warm-up.py',
    '../_base_/default_runtime.py'
]
pretrained = 'pretrain/vit_s14.safetensors'
allow_random_backbone = False
model = dict(
    backbone=dict(peft=dict(type='SideVMT')),
    head=dict(channels=128),
    feature_cache=dict(folder='work_dirs/features'))
optim_wrapper = dict(optimizer=dict(lr=3e-3))
total_batch_size = 12
train_dataloader = dict(sampler=dict(views=4))
train_cfg = dict(max_epochs=20, val_interval=10)
default_hooks = dict(logger=dict(interval=8), checkpoint=dict(save_best='rooms/mIoU'))
