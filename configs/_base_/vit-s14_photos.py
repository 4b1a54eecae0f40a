# Data, backbone and schedule of all experiments with a ViT-S/14 on photographs; no PEFT method.
# Weights: https://dl.fbaipublicfiles.com/dinov2/dinov2_vits14/dinov2_vits14_pretrain.pth, or those of
# `make weights` (docs/adapters.md) with --cfg-options pretrained=pretrain/vit_s14.safetensors
_base_ = [
    './models/vit_mlp.py', './datasets/photos.py', './schedules/adam_60e.py', './default_runtime.py'
]
pretrained = 'pretrain/dinov2_vits14_pretrain.pth'
allow_random_backbone = False
model = dict(head=dict(channels=64))
optim_wrapper = dict(optimizer=dict(lr=3e-3))
total_batch_size = 10
train_cfg = dict(max_epochs=10, val_interval=5)
default_hooks = dict(
    logger=dict(interval=5), checkpoint=dict(save_best='semseg/mIoU'))
