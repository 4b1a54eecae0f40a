# DINOv2 ViT-B/14 with registers. Weights (Apache-2.0):
# https://dl.fbaipublicfiles.com/dinov2/dinov2_vitb14/dinov2_vitb14_reg4_pretrain.pth
# https://arxiv.org/abs/2304.07193, https://arxiv.org/abs/2309.16588
_base_ = '../models/timm_vit_mlp.py'
pretrained = 'pretrain/dinov2_vitb14_reg4_pretrain.pth'
model = dict(backbone=dict(model_name='vit_base_patch14_reg4_dinov2'))
