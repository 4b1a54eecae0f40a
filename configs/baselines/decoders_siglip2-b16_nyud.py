# Fine-tuning decoders: only the heads are trained. SigLIP 2 ViT-B/16 (512 px), NYUD-v2.
#   tools/dist_train.sh configs/baselines/decoders_siglip2-b16_nyud.py 4
_base_ = '../vmt/vmt_siglip2-b16_nyud.py'
model = dict(backbone=dict(peft=dict(_delete_=True, type='DecodersOnly')))
