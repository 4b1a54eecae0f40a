# MTLoRA+ (rank 16), patch merging frozen with a low-rank update. Swin-nano, rendered scenes.
#   python tools/train.py configs/peers/mtlora-plus-r16_swin-nano_shapes.py
_base_ = './mtlora-r64_swin-nano_shapes.py'
model = dict(backbone=dict(peft=dict(rank=16, plus=True)))
