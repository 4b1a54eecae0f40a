# MTLoRA (rank 64, CVPR 2024, arXiv:2403.20320). Swin-nano, rendered scenes; maps, decoders,
# optimizer and schedule are those of the other methods on these scenes. The rank exceeds the
# channels of the first stages (20, 40); r16 does not.
#   python tools/train.py configs/peers/mtlora-r64_swin-nano_shapes.py
_base_ = '../vmt/vmt_swin-nano_shapes.py'
model = dict(backbone=dict(peft=dict(_delete_=True, type='MTLoRA', rank=64)))
