# Fine-tuning decoders (Table 2): only the heads are trained. Swin-T, PASCAL-Context.
#   tools/dist_train.sh configs/baselines/decoders_swin-t_pascal.py 4
_base_ = '../vmt/vmt_swin-t_pascal.py'
model = dict(backbone=dict(peft=dict(_delete_=True, type='DecodersOnly')))
