# Multiple LoRA: low-rank updates of queries and values, and the norms before attention, one set per
# task; one pass per task. Swin-nano, rendered scenes.
#   python tools/train.py configs/baselines/multiple_lora_swin-nano_shapes.py
_base_ = '../vmt/vmt_swin-nano_shapes.py'
model = dict(
    backbone=dict(
        peft=dict(
            _delete_=True, type='PerTask',
            method=dict(type='LoRA', rank=2, targets=('q', 'v'), train_norm=True))))
