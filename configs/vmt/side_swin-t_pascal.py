# SideVMT: a branch next to a backbone that gets no gradient. Swin-T, PASCAL-Context.
#   tools/dist_train.sh configs/vmt/side_swin-t_pascal.py 4
#   python tools/train.py configs/vmt/side_swin-t_pascal.py \
#       --cfg-options data_root=FOLDER pretrained=FILE
# Weights: any Swin-T ImageNet-1k checkpoint of the official repository, timm, mmpretrain or mmseg.
_base_ = [
    '../_base_/models/swin_mlp.py', '../_base_/datasets/pascal_context.py',
    '../_base_/schedules/adam_60e.py', '../_base_/default_runtime.py'
]
pretrained = 'pretrain/swin_tiny_patch4_window7_224.pth'
allow_random_backbone = False
model = dict(backbone=dict(peft=dict(type='SideVMT')))
default_hooks = dict(checkpoint=dict(save_best='delta'))
