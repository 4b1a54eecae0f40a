# Fine-tuning decoders (Table 2): heads alone train, the encoder stays as it was pretrained.
#   tools/dist_train.sh configs/baselines/decoders_swin-t_pascal.py 4
_base_ = '../vmt/vmt_swin-t_pascal.py'
model = dict(backbone=dict(peft=dict(_delete_=True, type='DecodersOnly')))
