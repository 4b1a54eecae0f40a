# Fine-tuning decoders: heads alone train, the encoder stays as it was pretrained.
#   python tools/train.py configs/baselines/decoders_vit-s14_photos.py --cfg-options data_root=FOLDER pretrained=FILE
_base_ = '../_base_/vit-s14_photos.py'
model = dict(backbone=dict(peft=dict(type='DecodersOnly')))
