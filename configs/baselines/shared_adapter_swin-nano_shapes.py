# Shared Adapter: adapters parallel to every MLP, shared by all tasks. Swin-nano, rendered scenes.
#   python tools/train.py configs/baselines/shared_adapter_swin-nano_shapes.py
_base_ = '../vmt/vmt_swin-nano_shapes.py'
model = dict(backbone=dict(peft=dict(_delete_=True, type='Adapter', ratio=2)))
