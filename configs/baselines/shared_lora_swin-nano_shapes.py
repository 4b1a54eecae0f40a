# Shared LoRA: low-rank updates of queries, keys and values, shared by all tasks.
# Swin-nano, rendered scenes.
#   python tools/train.py configs/baselines/shared_lora_swin-nano_shapes.py
_base_ = '../vmt/vmt_swin-nano_shapes.py'
model = dict(backbone=dict(peft=dict(_delete_=True, type='LoRA', rank=2, targets=('q', 'k', 'v'))))
