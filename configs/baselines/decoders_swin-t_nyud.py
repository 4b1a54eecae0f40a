# Fine-tuning decoders: only the heads are trained. Swin-T, NYUD-v2.
#   tools/dist_train.sh configs/baselines/decoders_swin-t_nyud.py 4
_base_ = '../vmt/vmt_swin-t_nyud.py'
model = dict(backbone=dict(peft=dict(_delete_=True, type='DecodersOnly')))
