# VMT-Adapter (rho = 4, s = 0.5). ViT-B/16 pretrained as a masked autoencoder, PASCAL-Context.
#   tools/dist_train.sh configs/vmt/vmt_mae-vit-b16_pascal.py 4
# Weights: https://dl.fbaipublicfiles.com/mae/pretrain/mae_pretrain_vit_base.pth
_base_ = './vmt_dinov2-s14_pascal.py'
pretrained = 'pretrain/mae_pretrain_vit_base.pth'
model = dict(
    backbone=dict(arch='base', img_size=224, patch_size=16, layer_scale_init_value=0.0))
