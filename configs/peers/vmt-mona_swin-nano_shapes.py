# Mona with VMT-Adapter's scales and shifts per task, in one pass. Not published.
# Swin-nano, rendered scenes.
#   python tools/train.py configs/peers/vmt-mona_swin-nano_shapes.py
_base_ = '../vmt/vmt_swin-nano_shapes.py'
model = dict(backbone=dict(peft=dict(_delete_=True, type='VMTMona', hidden=16)))
