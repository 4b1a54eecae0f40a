# AdamW, a warm-up over the first epoch, then linear decay to 0 per iteration; clipped gradients.
_base_ = './adam_60e.py'
optim_wrapper = dict(
    optimizer=dict(type='AdamW', weight_decay=0.05), clip_grad=dict(max_norm=1.0))
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, end=1, by_epoch=True, convert_to_iter_based=True),
    dict(type='PolyLR', power=1.0, eta_min=0.0, begin=1, by_epoch=True, convert_to_iter_based=True)
]
