# VMT-Adapter (rho = 4, s = 0.5). DINOv2 ViT-L/14, PASCAL-Context.
#   tools/dist_train.sh configs/vmt/vmt_dinov2-l14_pascal.py 4
# Weights: https://dl.fbaipublicfiles.com/dinov2/dinov2_vitl14/dinov2_vitl14_pretrain.pth
_base_ = './vmt_dinov2-s14_pascal.py'
pretrained = 'pretrain/dinov2_vitl14_pretrain.pth'
model = dict(backbone=dict(arch='large'))
