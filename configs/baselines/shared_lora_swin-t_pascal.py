# Shared LoRA (Table 2): low-rank updates of queries, keys and values, shared by all tasks.
# Swin-T, PASCAL-Context.
#   tools/dist_train.sh configs/baselines/shared_lora_swin-t_pascal.py 4
_base_ = '../vmt/vmt_swin-t_pascal.py'
model = dict(backbone=dict(peft=dict(_delete_=True, type='LoRA', rank=5, targets=('q', 'k', 'v'))))
