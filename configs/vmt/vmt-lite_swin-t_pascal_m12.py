# VMT-Adapter-Lite with m = 12 (Table 3). Swin-T, PASCAL-Context.
#   tools/dist_train.sh configs/vmt/vmt-lite_swin-t_pascal_m12.py 4
_base_ = './vmt-lite_swin-t_pascal.py'
model = dict(backbone=dict(peft=dict(m=12)))
