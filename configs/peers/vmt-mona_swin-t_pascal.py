# Mona with VMT-Adapter's scales and shifts per task, in one pass. Not published.
# Swin-T, PASCAL-Context.
#   tools/dist_train.sh configs/peers/vmt-mona_swin-t_pascal.py 4
_base_ = '../vmt/vmt_swin-t_pascal.py'
model = dict(backbone=dict(peft=dict(_delete_=True, type='VMTMona')))
