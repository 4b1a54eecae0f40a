# Multiple Adapter: adapters parallel to every MLP, one set per task; one pass per task.
# Swin-nano, rendered scenes.
#   python tools/train.py configs/baselines/multiple_adapter_swin-nano_shapes.py
_base_ = '../vmt/vmt_swin-nano_shapes.py'
model = dict(
    backbone=dict(
        peft=dict(_delete_=True, type='PerTask', method=dict(type='Adapter', ratio=2))))
