# VMT-Adapter (rho = 4, s = 0.5). DINOv2 ViT-B/14, PASCAL-Context.
#   tools/dist_train.sh configs/vmt/vmt_dinov2-b14_pascal.py 4
# Weights: https://dl.fbaipublicfiles.com/dinov2/dinov2_vitb14/dinov2_vitb14_pretrain.pth
_base_ = './vmt_dinov2-s14_pascal.py'
pretrained = 'pretrain/dinov2_vitb14_pretrain.pth'
model = dict(backbone=dict(arch='base'))
