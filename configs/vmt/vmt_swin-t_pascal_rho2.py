# VMT-Adapter with rho = 2 (Table 3). Swin-T, PASCAL-Context.
#   tools/dist_train.sh configs/vmt/vmt_swin-t_pascal_rho2.py 4
_base_ = './vmt_swin-t_pascal.py'
model = dict(backbone=dict(peft=dict(ratio=2)))
