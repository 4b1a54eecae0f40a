# Shared LoRA: low-rank updates of queries, keys and values, shared by all tasks.
# DINOv3 ViT-S/16, NYUD-v2.
#   tools/dist_train.sh configs/baselines/shared_lora_dinov3-s16_nyud.py 4
_base_ = '../vmt/vmt_dinov3-s16_nyud.py'
model = dict(backbone=dict(peft=dict(_delete_=True, type='LoRA', rank=5, targets=('q', 'k', 'v'))))
