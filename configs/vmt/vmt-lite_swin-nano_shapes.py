# VMT-Adapter-Lite (m = 4, rho = 1, s = 0.5). Swin-nano, rendered scenes.
#   python tools/train.py configs/vmt/vmt-lite_swin-nano_shapes.py
_base_ = './vmt_swin-nano_shapes.py'
model = dict(
    backbone=dict(peft=dict(_delete_=True, type='VMTAdapterLite', m=4, ratio=1, gate=0.5)))
