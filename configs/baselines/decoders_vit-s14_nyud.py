# Fine-tuning decoders: only the heads are trained. DINOv2 ViT-S/14, NYUD-v2.
#   python tools/train.py configs/baselines/decoders_vit-s14_nyud.py \
#       --cfg-options data_root=FOLDER pretrained=pretrain/vit_s14.safetensors
_base_ = '../_base_/vit-s14_nyud.py'
model = dict(backbone=dict(peft=dict(type='DecodersOnly')))
