# The averaged weights of what trains are validated, tested and kept beside the trained ones.
#   python tools/train.py configs/vmt/vmt_swin-nano_shapes_ema.py
_base_ = './vmt_swin-nano_shapes.py'
custom_hooks = [
    dict(
        type='EMAHook',  # copies nothing of what is frozen
        ema_type='ExponentialMovingAverage',
        momentum=0.01,  # the weight of each new step, as in mmengine
        update_buffers=True)  # running statistics belong to the averaged weights
]
