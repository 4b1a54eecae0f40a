# Fine-tuning decoders: only the heads are trained. Swin-T, PASCAL-Context with five tasks.
#   tools/dist_train.sh configs/baselines/decoders_swin-t_pascal-5task.py 4
_base_ = '../vmt/vmt_swin-t_pascal-5task.py'
model = dict(backbone=dict(peft=dict(_delete_=True, type='DecodersOnly')))
