# Fine-tuning decoders: only the heads are trained. DINOv3 ViT-B/16, NYUD-v2.
#   tools/dist_train.sh configs/baselines/decoders_dinov3-b16_nyud.py 4
_base_ = '../vmt/vmt_dinov3-b16_nyud.py'
model = dict(backbone=dict(peft=dict(_delete_=True, type='DecodersOnly')))
