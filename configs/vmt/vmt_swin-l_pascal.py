# VMT-Adapter on a frozen Swin-L. Delta needs scores of single-task full fine-tuning of the same
# encoder, which the paper does not print; give yours as reference=dict(semseg=..., ...).
#   tools/dist_train.sh configs/vmt/vmt_swin-l_pascal.py 4
_base_ = './vmt_swin-t_pascal.py'
pretrained = 'pretrain/swin_large_patch4_window7_224_22k.pth'
reference = None
model = dict(backbone=dict(arch='large'))
default_hooks = dict(checkpoint=dict(save_best='semseg/mIoU'))
