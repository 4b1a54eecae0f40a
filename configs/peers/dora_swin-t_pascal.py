# Shared DoRA (arXiv:2402.09353): LoRA with trained norms of the rows.
# Swin-T, PASCAL-Context.
#   tools/dist_train.sh configs/peers/dora_swin-t_pascal.py 4
_base_ = '../vmt/vmt_swin-t_pascal.py'
model = dict(
    backbone=dict(
        peft=dict(_delete_=True, type='LoRA', rank=4, targets=('q', 'v'), use_dora=True)))
