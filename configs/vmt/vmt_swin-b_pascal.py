# VMT-Adapter (rho = 4, s = 0.5; Fig. 5a). Swin-B, PASCAL-Context. For Delta, set
# reference=dict(semseg=..., ...) to the scores of single-task full fine-tuning of the same backbone
# (not in the paper).
#   tools/dist_train.sh configs/vmt/vmt_swin-b_pascal.py 4
_base_ = './vmt_swin-t_pascal.py'
pretrained = 'pretrain/swin_base_patch4_window7_224.pth'
reference = None
model = dict(backbone=dict(arch='base'))
default_hooks = dict(checkpoint=dict(save_best='semseg/mIoU'))
