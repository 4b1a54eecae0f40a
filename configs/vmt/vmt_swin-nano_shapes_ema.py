# VMT-Adapter whose averaged weights (EMA) are validated, tested and saved next to the trained ones.
# Swin-nano, rendered scenes.
#   python tools/train.py configs/vmt/vmt_swin-nano_shapes_ema.py
_base_ = './vmt_swin-nano_shapes.py'
custom_hooks = [
    dict(
        type='EMAHook',  # does not copy frozen weights
        ema_type='ExponentialMovingAverage',
        momentum=0.01,  # the weight of each new step, as in mmengine
        update_buffers=True)  # average the running statistics, too
]
