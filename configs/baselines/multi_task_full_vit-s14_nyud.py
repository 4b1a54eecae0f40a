# Multi-task full fine-tuning: all parameters of one backbone are trained.
# DINOv2 ViT-S/14, NYUD-v2.
#   python tools/train.py configs/baselines/multi_task_full_vit-s14_nyud.py \
#       --cfg-options data_root=FOLDER pretrained=pretrain/vit_s14.safetensors
_base_ = '../_base_/vit-s14_nyud.py'
model = dict(backbone=dict(peft=dict(type='FullFineTuning')))
# The heads start from random weights and use the base learning rate; the backbone uses a fraction.
optim_wrapper = dict(paramwise_cfg=dict(custom_keys=dict(backbone=dict(lr_mult=0.01))))
