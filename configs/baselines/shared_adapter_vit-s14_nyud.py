# Shared Adapter: adapters parallel to every MLP, shared by all tasks.
# DINOv2 ViT-S/14, NYUD-v2.
#   python tools/train.py configs/baselines/shared_adapter_vit-s14_nyud.py \
#       --cfg-options data_root=FOLDER pretrained=pretrain/vit_s14.safetensors
_base_ = '../_base_/vit-s14_nyud.py'
model = dict(backbone=dict(peft=dict(type='Adapter', ratio=2)))
# The heads start from random weights and use the base learning rate; the backbone uses a fraction.
optim_wrapper = dict(paramwise_cfg=dict(custom_keys=dict(backbone=dict(lr_mult=0.03))))
