# VMT-Adapter on a frozen Swin-B (Fig. 5a). Delta needs scores of single-task full fine-tuning of the same
# encoder, which the paper does not print; give yours as reference=dict(semseg=..., ...).
#   tools/dist_train.sh configs/vmt/vmt_swin-b_pascal.py 4
_base_ = './vmt_swin-t_pascal.py'
pretrained = 'pretrain/swin_base_patch4_window7_224.pth'
reference = None
model = dict(backbone=dict(arch='base'))
default_hooks = dict(checkpoint=dict(save_best='semseg/mIoU'))
