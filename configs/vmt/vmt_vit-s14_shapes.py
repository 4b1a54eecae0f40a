# VMT-Adapter (rho = 4, s = 0.5). DINOv2-style ViT-S/14 of `make weights`, rendered scenes; minutes on a CPU.
#   python tools/train.py configs/vmt/vmt_vit-s14_shapes.py
_base_ = [
    '../_base_/models/vit_mlp.py', '../_base_/datasets/shapes.py',
    '../_base_/schedules/adam_60e.py', '../_base_/default_runtime.py'
]
data_root = 'data/shapes_168'
image_size = (168, 168)  # (width, height), multiples of 14
render = dict(size=168)
pretrained = 'pretrain/vit_s14.safetensors'
allow_random_backbone = False
model = dict(
    backbone=dict(peft=dict(type='VMTAdapter')), head=dict(channels=64))
# The heads start from random weights and use the base learning rate; the backbone uses a fraction.
optim_wrapper = dict(
    optimizer=dict(lr=3e-3), paramwise_cfg=dict(custom_keys=dict(backbone=dict(lr_mult=0.03))))
total_batch_size = 8
train_cfg = dict(max_epochs=5, val_interval=5)
default_hooks = dict(
    logger=dict(interval=5), checkpoint=dict(save_best='semseg/mIoU'))
