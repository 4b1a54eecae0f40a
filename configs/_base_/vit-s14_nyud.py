# Data, backbone and schedule of all experiments with a ViT-S/14 on NYUD-v2; no PEFT method.
# The size is for two CPU cores; on a GPU: --cfg-options image_size=560,448 (multiples of 14).
# Weights: https://dl.fbaipublicfiles.com/dinov2/dinov2_vits14/dinov2_vits14_pretrain.pth, or those of
# `make weights` (docs/adapters.md) with --cfg-options pretrained=pretrain/vit_s14.safetensors
_base_ = [
    './models/vit_mlp.py', './datasets/nyud.py', './schedules/adam_60e.py', './default_runtime.py'
]
data_root = 'data/nyud'
image_size = (252, 196)  # (width, height); scores are at the labels' 640 x 480
tasks = dict(depth=dict(max_depth=10.0, zoom_divides=True))  # metres; 0 < d < 10 counts
pretrained = 'pretrain/dinov2_vits14_pretrain.pth'
allow_random_backbone = False
model = dict(head=dict(channels=128))

# As usual for NYUD-v2, images are only enlarged, and not rotated.
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadLabels'),
    dict(type='RandomWarp', rotate=(0, 0), scale=(1.0, 1.5)),
    dict(type='PackMultiTaskInputs'),
]
train_dataloader = dict(num_workers=1, dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(num_workers=1)
test_dataloader = val_dataloader

optim_wrapper = dict(optimizer=dict(lr=3e-3))
train_cfg = dict(max_epochs=6, val_interval=6)
default_hooks = dict(
    logger=dict(interval=10), checkpoint=dict(save_best='semseg/mIoU'))
