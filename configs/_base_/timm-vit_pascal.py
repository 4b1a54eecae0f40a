# PASCAL-Context and schedule of all experiments with a file of `_base_/backbones`; no PEFT method.
# For Delta, set reference=dict(semseg=..., ...) to the scores of single-task full fine-tuning of the
# same backbone.
_base_ = [
    './datasets/pascal_context.py', './schedules/adam_60e.py', './default_runtime.py'
]
allow_random_backbone = False
reference = None
default_hooks = dict(checkpoint=dict(save_best='semseg/mIoU'))
