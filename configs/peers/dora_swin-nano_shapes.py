# Shared DoRA (arXiv:2402.09353): LoRA with trained norms of the rows.
# Swin-nano, rendered scenes.
#   python tools/train.py configs/peers/dora_swin-nano_shapes.py
_base_ = '../vmt/vmt_swin-nano_shapes.py'
model = dict(
    backbone=dict(
        peft=dict(_delete_=True, type='LoRA', rank=2, targets=('q', 'v'), use_dora=True)))
