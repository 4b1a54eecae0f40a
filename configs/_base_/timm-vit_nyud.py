# NYUD-v2 and schedule of all experiments with a file of `_base_/backbones`; no PEFT method.
_base_ = [
    './datasets/nyud.py', './schedules/adam_60e.py', './default_runtime.py'
]
allow_random_backbone = False
default_hooks = dict(checkpoint=dict(save_best='semseg/mIoU'))
