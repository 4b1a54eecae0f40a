# VMT-Adapter on a frozen DINOv2 ViT-S/14, photographs with partial labels.
#   python tools/train.py configs/vmt/vmt_vit-s14_photos.py --cfg-options data_root=FOLDER pretrained=FILE
# Weights: https://dl.fbaipublicfiles.com/dinov2/dinov2_vits14/dinov2_vits14_pretrain.pth
_base_ = [
    '../_base_/models/vit_mlp.py', '../_base_/datasets/photos.py',
    '../_base_/schedules/adam_60e.py', '../_base_/default_runtime.py'
]
pretrained = 'pretrain/dinov2_vits14_pretrain.pth'
allow_random_backbone = False
model = dict(
    tasks=_base_.tasks,
    backbone=dict(
        tasks=list(_base_.tasks),
        pretrained=pretrained,
        allow_random_backbone=allow_random_backbone,
        peft=dict(type='VMTAdapter', ratio=4, gate=0.5)),
    head=dict(channels=64))
optim_wrapper = dict(optimizer=dict(lr=1e-3))
total_batch_size = 10
train_cfg = dict(max_epochs=10, val_interval=5)
default_hooks = dict(
    logger=dict(interval=5), checkpoint=dict(save_best='semseg/mIoU', rule='greater'))
