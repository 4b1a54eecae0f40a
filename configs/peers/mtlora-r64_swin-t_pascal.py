# MTLoRA (rank 64, CVPR 2024, arXiv:2403.20320) in the setting of its code: Swin-T, PASCAL-Context,
# 448 px, maps after patch merging, its decoders, labels at 448 px (protocol B). `--amp` adds the
# mixed precision of its code.
#   tools/dist_train.sh configs/peers/mtlora-r64_swin-t_pascal.py 4 --amp
_base_ = [
    '../_base_/models/swin_mlp.py', '../_base_/datasets/pascal_context.py',
    '../_base_/schedules/adamw_300e.py', '../_base_/default_runtime.py'
]
image_size = (448, 448)
protocol = 'B'
pretrained = 'pretrain/swin_tiny_patch4_window7_224.pth'
allow_random_backbone = False
model = dict(
    backbone=dict(taps='merged', drop_path_rate=0.2, peft=dict(type='MTLoRA', rank=64)),
    head=dict(_delete_=True, type='HRNetHead', hidden_ratio=4, widths=(18, 36, 72, 144)))
default_hooks = dict(checkpoint=dict(save_best='delta'))
