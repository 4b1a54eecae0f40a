# Polyhistor-Lite: templates of all layers, scaled for each; one pass a task.
#   python tools/train.py configs/baselines/polyhistor-lite_swin-nano_shapes.py
_base_ = '../vmt/vmt_swin-nano_shapes.py'
model = dict(
    backbone=dict(
        peft=dict(_delete_=True, type='PolyhistorLite', ratio=2, embedding=8, rank=4)))
