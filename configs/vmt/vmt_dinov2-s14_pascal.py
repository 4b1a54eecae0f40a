# VMT-Adapter (rho = 4, s = 0.5). DINOv2 ViT-S/14, PASCAL-Context. For Delta, set
# reference=dict(semseg=..., ...) to the scores of single-task full fine-tuning of the same
# backbone.
#   tools/dist_train.sh configs/vmt/vmt_dinov2-s14_pascal.py 4
#   python tools/train.py configs/vmt/vmt_dinov2-s14_pascal.py \
#       --cfg-options data_root=FOLDER pretrained=FILE
# Weights: https://dl.fbaipublicfiles.com/dinov2/dinov2_vits14/dinov2_vits14_pretrain.pth
_base_ = [
    '../_base_/models/vit_mlp.py', '../_base_/datasets/pascal_context.py',
    '../_base_/schedules/adam_60e.py', '../_base_/default_runtime.py'
]
pretrained = 'pretrain/dinov2_vits14_pretrain.pth'
allow_random_backbone = False
reference = None
model = dict(backbone=dict(peft=dict(type='VMTAdapter', ratio=4, gate=0.5)))
default_hooks = dict(checkpoint=dict(save_best='semseg/mIoU'))
