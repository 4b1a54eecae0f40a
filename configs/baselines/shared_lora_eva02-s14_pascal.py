# Shared LoRA: low-rank updates of queries, keys and values, shared by all tasks.
# EVA-02 ViT-S/14, PASCAL-Context.
#   tools/dist_train.sh configs/baselines/shared_lora_eva02-s14_pascal.py 4
_base_ = '../vmt/vmt_eva02-s14_pascal.py'
model = dict(backbone=dict(peft=dict(_delete_=True, type='LoRA', rank=5, targets=('q', 'k', 'v'))))
