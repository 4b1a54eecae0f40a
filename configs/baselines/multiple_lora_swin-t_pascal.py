# Multiple LoRA (Table 2): low-rank updates of queries and values, and the norms before attention,
# one set per task; one pass per task. Swin-T, PASCAL-Context.
#   tools/dist_train.sh configs/baselines/multiple_lora_swin-t_pascal.py 4
_base_ = '../vmt/vmt_swin-t_pascal.py'
model = dict(
    backbone=dict(
        peft=dict(
            _delete_=True, type='PerTask',
            method=dict(type='LoRA', rank=4, targets=('q', 'v'), train_norm=True))))
