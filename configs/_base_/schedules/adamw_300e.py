# The recipe of MTLoRA's code: 300 epochs, batch 32, AdamW, linear warm-up in 20 epochs, cosine
# decay, gradients clipped to norm 5. Its rate of 5e-4 is for a batch of 512, so 3.125e-5 for 32. No
# weight decay of biases, norms and tables of relative positions. `--amp` adds mixed precision.
total_batch_size = 32  # divided by the number of processes
optim_wrapper = dict(
    type='OptimWrapper',
    constructor='TrainableOnlyConstructor',
    optimizer=dict(type='AdamW', lr=3.125e-5, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.05),
    clip_grad=dict(max_norm=5.0),
    paramwise_cfg=dict(
        custom_keys={
            'bias': dict(decay_mult=0.0),
            'norm.weight': dict(decay_mult=0.0),
            'norm1.weight': dict(decay_mult=0.0),
            'norm2.weight': dict(decay_mult=0.0)
        }))
param_scheduler = [
    dict(
        type='LinearLR',
        start_factor=1e-3,
        begin=0,
        end=20,
        by_epoch=True,
        convert_to_iter_based=True),
    dict(
        type='CosineAnnealingLR',
        eta_min=3.125e-7,
        begin=20,
        end=300,
        by_epoch=True,
        convert_to_iter_based=True)
]
train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=300, val_interval=20)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
