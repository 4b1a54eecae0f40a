# Shared LoRA: low-rank updates of queries, keys and values, shared by all tasks.
# DINOv2 ViT-B/14 with registers, PASCAL-Context.
#   tools/dist_train.sh configs/baselines/shared_lora_dinov2-reg-b14_pascal.py 4
_base_ = '../vmt/vmt_dinov2-reg-b14_pascal.py'
model = dict(backbone=dict(peft=dict(_delete_=True, type='LoRA', rank=5, targets=('q', 'k', 'v'))))
