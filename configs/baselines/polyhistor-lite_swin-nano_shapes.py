# Polyhistor-Lite: hypernetworks generate template matrices per task, each block scales them; one
# pass per task. Swin-nano, rendered scenes.
#   python tools/train.py configs/baselines/polyhistor-lite_swin-nano_shapes.py
_base_ = '../vmt/vmt_swin-nano_shapes.py'
model = dict(
    backbone=dict(
        peft=dict(_delete_=True, type='PolyhistorLite', ratio=2, embedding=8, rank=4)))
