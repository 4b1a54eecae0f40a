# Shared LoRA: low-rank updates of queries, keys and values, shared by all tasks.
# SigLIP 2 ViT-B/16 (512 px), NYUD-v2.
#   tools/dist_train.sh configs/baselines/shared_lora_siglip2-b16_nyud.py 4
_base_ = '../vmt/vmt_siglip2-b16_nyud.py'
model = dict(backbone=dict(peft=dict(_delete_=True, type='LoRA', rank=5, targets=('q', 'k', 'v'))))
