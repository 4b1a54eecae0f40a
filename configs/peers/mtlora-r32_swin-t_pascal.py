# MTLoRA (rank 32). Swin-T, PASCAL-Context.
#   tools/dist_train.sh configs/peers/mtlora-r32_swin-t_pascal.py 4 --amp
_base_ = './mtlora-r64_swin-t_pascal.py'
model = dict(backbone=dict(peft=dict(rank=32)))
