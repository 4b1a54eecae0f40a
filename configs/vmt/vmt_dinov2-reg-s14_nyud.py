# VMT-Adapter (rho = 4, s = 0.5). DINOv2 ViT-S/14 with registers, NYUD-v2.
#   tools/dist_train.sh configs/vmt/vmt_dinov2-reg-s14_nyud.py 4
# Weights (Apache-2.0): https://dl.fbaipublicfiles.com/dinov2/dinov2_vits14/dinov2_vits14_reg4_pretrain.pth
_base_ = ['../_base_/backbones/dinov2-reg-s14.py', '../_base_/timm-vit_nyud.py']
image_size = (574, 448)  # multiples of the patch size
model = dict(backbone=dict(peft=dict(type='VMTAdapter', ratio=4, gate=0.5)))
