# VMT-Adapter (rho = 4, s = 0.5). DINOv3 ViT-L/16, NYUD-v2.
#   tools/dist_train.sh configs/vmt/vmt_dinov3-l16_nyud.py 4
# Weights (gated, DINOv3 License): https://huggingface.co/facebook/dinov3-vitl16-pretrain-lvd1689m
_base_ = ['../_base_/backbones/dinov3-l16.py', '../_base_/timm-vit_nyud.py']
model = dict(backbone=dict(peft=dict(type='VMTAdapter', ratio=4, gate=0.5)))
