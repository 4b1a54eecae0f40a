# VMT-Adapter (rho = 4, s = 0.5). Supervised ViT-B/16 (ImageNet-21k, then ImageNet-1k at 384 px),
# PASCAL-Context.
#   tools/dist_train.sh configs/vmt/vmt_vit-b16_pascal.py 4
# Weights: https://mmassets.onedl.ai/mmclassification/v0/vit/finetune/vit-base-p16_in21k-pre-3rdparty_ft-64xb64_in1k-384_20210928-98e8652b.pth
_base_ = './vmt_dinov2-s14_pascal.py'
pretrained = 'pretrain/vit-base-p16_in21k-pre-3rdparty_ft-64xb64_in1k-384_20210928-98e8652b.pth'
model = dict(
    data_preprocessor=dict(mean=[127.5, 127.5, 127.5], std=[127.5, 127.5, 127.5]),
    backbone=dict(arch='base', img_size=384, patch_size=16, layer_scale_init_value=0.0))
