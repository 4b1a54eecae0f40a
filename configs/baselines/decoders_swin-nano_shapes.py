# Fine-tuning decoders: heads alone train, the encoder stays as it was pretrained.
#   python tools/train.py configs/baselines/decoders_swin-nano_shapes.py
_base_ = '../vmt/vmt_swin-nano_shapes.py'
model = dict(backbone=dict(peft=dict(_delete_=True, type='DecodersOnly')))
