# MTLoRA (rank 16). Swin-nano, rendered scenes.
#   python tools/train.py configs/peers/mtlora-r16_swin-nano_shapes.py
_base_ = './mtlora-r64_swin-nano_shapes.py'
model = dict(backbone=dict(peft=dict(rank=16)))
