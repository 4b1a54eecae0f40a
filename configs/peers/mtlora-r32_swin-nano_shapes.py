# MTLoRA (rank 32). Swin-nano, rendered scenes.
# The rank exceeds the channels of the first stages (20, 40); r16 does not.
#   python tools/train.py configs/peers/mtlora-r32_swin-nano_shapes.py
_base_ = './mtlora-r64_swin-nano_shapes.py'
model = dict(backbone=dict(peft=dict(rank=32)))
