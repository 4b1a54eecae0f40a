# LoRA shared by all tasks in stages 0 and 1, by a group of tasks in stage 2, per task in stage 3.
# Swin-nano, rendered scenes.
#   python tools/train.py configs/peers/progressive_lora_swin-nano_shapes.py
_base_ = '../vmt/vmt_swin-nano_shapes.py'
model = dict(
    backbone=dict(
        peft=dict(
            _delete_=True, type='PerTask', method=dict(type='LoRA', rank=2, targets=('q', 'v')),
            from_stage=2, tasks_from_stage=3,
            groups=dict(classes=['semseg', 'human_parts'], surfaces=['saliency', 'normals']))))
