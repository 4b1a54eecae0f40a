# Fine-tuning decoders: only the heads are trained. DINOv3 ViT-B/16, PASCAL-Context.
#   tools/dist_train.sh configs/baselines/decoders_dinov3-b16_pascal.py 4
_base_ = '../vmt/vmt_dinov3-b16_pascal.py'
model = dict(backbone=dict(peft=dict(_delete_=True, type='DecodersOnly')))
