# LoRA shared by all tasks in stages 0 and 1, by a group of tasks in stage 2, per task in stage 3.
# Swin-T, PASCAL-Context.
#   tools/dist_train.sh configs/peers/progressive_lora_swin-t_pascal.py 4
_base_ = '../vmt/vmt_swin-t_pascal.py'
model = dict(
    backbone=dict(
        peft=dict(
            _delete_=True, type='PerTask', method=dict(type='LoRA', rank=4, targets=('q', 'v')),
            from_stage=2, tasks_from_stage=3,
            groups=dict(classes=['semseg', 'human_parts'], surfaces=['saliency', 'normals']))))
