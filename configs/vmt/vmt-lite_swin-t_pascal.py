# VMT-Adapter-Lite (m = 3, rho = 4, s = 0.5; Tables 2 and 3). Swin-T, PASCAL-Context.
#   tools/dist_train.sh configs/vmt/vmt-lite_swin-t_pascal.py 4
_base_ = './vmt_swin-t_pascal.py'
model = dict(
    backbone=dict(peft=dict(_delete_=True, type='VMTAdapterLite', m=3, ratio=4, gate=0.5)))
