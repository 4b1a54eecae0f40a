# VMT-Adapter (rho = 4, s = 0.5) for seven tasks at once. DINOv2-style ViT-S/14, NYUD-v2 and photographs.
#   make weights
#   python tools/train.py configs/vmt/vmt_vit-s14_seven-tasks.py
#   python tools/model_converters/export_adapter.py configs/vmt/vmt_vit-s14_seven-tasks.py \
#       work_dirs/vmt_vit-s14_seven-tasks/epoch_12.pth seven-tasks.safetensors --half
# Data: data/nyud and data/photos_mt (docs/data.md). Other methods: --cfg-options model.backbone.peft.type=LoRA
_base_ = [
    '../_base_/models/vit_mlp.py', '../_base_/datasets/seven_tasks.py', '../_base_/schedules/adam_60e.py',
    '../_base_/default_runtime.py'
]
pretrained = 'pretrain/vit_s14.safetensors'
allow_random_backbone = False
model = dict(backbone=dict(peft=dict(type='VMTAdapter')), head=dict(channels=128))
# The heads start from random weights and use the base learning rate; the backbone uses a fraction.
optim_wrapper = dict(
    optimizer=dict(lr=3e-3), paramwise_cfg=dict(custom_keys=dict(backbone=dict(lr_mult=0.01))))
total_batch_size = 12
train_cfg = dict(max_epochs=12, val_interval=6)
default_hooks = dict(logger=dict(interval=8), checkpoint=dict(save_best='rooms/mIoU'))
