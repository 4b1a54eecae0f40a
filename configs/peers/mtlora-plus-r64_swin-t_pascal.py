# MTLoRA+ (rank 64), patch merging frozen with a low-rank update. Swin-T, PASCAL-Context.
#   tools/dist_train.sh configs/peers/mtlora-plus-r64_swin-t_pascal.py 4 --amp
_base_ = './mtlora-r64_swin-t_pascal.py'
model = dict(backbone=dict(peft=dict(rank=64, plus=True)))
