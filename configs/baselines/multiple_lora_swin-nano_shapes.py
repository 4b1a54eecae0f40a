# Multiple LoRA: low-rank updates of queries and values, and the attention's norms,
# one set a task, one pass a task.
#   python tools/train.py configs/baselines/multiple_lora_swin-nano_shapes.py
_base_ = '../vmt/vmt_swin-nano_shapes.py'
model = dict(
    backbone=dict(
        peft=dict(
            _delete_=True, type='PerTask',
            method=dict(type='LoRA', rank=2, targets=('q', 'v'), train_norm=True))))
