# Fine-tuning decoders: only the heads are trained. EVA-02 ViT-S/14, NYUD-v2.
#   tools/dist_train.sh configs/baselines/decoders_eva02-s14_nyud.py 4
_base_ = '../vmt/vmt_eva02-s14_nyud.py'
model = dict(backbone=dict(peft=dict(_delete_=True, type='DecodersOnly')))
