# VMT-Adapter (rho = 4, s = 0.5). DINOv2 ViT-S/14 with registers, PASCAL-Context.
#   tools/dist_train.sh configs/vmt/vmt_dinov2-reg-s14_pascal.py 4
# Weights (Apache-2.0): https://dl.fbaipublicfiles.com/dinov2/dinov2_vits14/dinov2_vits14_reg4_pretrain.pth
_base_ = ['../_base_/backbones/dinov2-reg-s14.py', '../_base_/timm-vit_pascal.py']
image_size = (518, 518)  # multiples of the patch size
model = dict(backbone=dict(peft=dict(type='VMTAdapter', ratio=4, gate=0.5)))
