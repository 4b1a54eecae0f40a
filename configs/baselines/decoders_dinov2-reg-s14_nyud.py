# Fine-tuning decoders: only the heads are trained. DINOv2 ViT-S/14 with registers, NYUD-v2.
#   tools/dist_train.sh configs/baselines/decoders_dinov2-reg-s14_nyud.py 4
_base_ = '../vmt/vmt_dinov2-reg-s14_nyud.py'
model = dict(backbone=dict(peft=dict(_delete_=True, type='DecodersOnly')))
