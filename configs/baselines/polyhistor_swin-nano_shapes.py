# Polyhistor: decomposed hypernetworks generate adapters per task; one pass per task.
# Swin-nano, rendered scenes.
#   python tools/train.py configs/baselines/polyhistor_swin-nano_shapes.py
_base_ = '../vmt/vmt_swin-nano_shapes.py'
model = dict(
    backbone=dict(
        peft=dict(_delete_=True, type='Polyhistor', ratio=4, embedding=8, rank=4)))
