# VMT-Adapter (rho = 4, s = 0.5). DINOv3 ViT-B/16, PASCAL-Context.
#   tools/dist_train.sh configs/vmt/vmt_dinov3-b16_pascal.py 4
# Weights (gated, DINOv3 License): https://huggingface.co/facebook/dinov3-vitb16-pretrain-lvd1689m
_base_ = ['../_base_/backbones/dinov3-b16.py', '../_base_/timm-vit_pascal.py']
model = dict(backbone=dict(peft=dict(type='VMTAdapter', ratio=4, gate=0.5)))
