# DINOv3 ViT-L/16. Weights (gated, DINOv3 License):
# https://huggingface.co/facebook/dinov3-vitl16-pretrain-lvd1689m
# Save its model.safetensors under the name below. https://arxiv.org/abs/2508.10104
_base_ = '../models/timm_vit_mlp.py'
pretrained = 'pretrain/dinov3-vitl16-pretrain-lvd1689m.safetensors'
model = dict(
    backbone=dict(model_name='vit_large_patch16_dinov3', out_indices=(4, 11, 17, 23)))
