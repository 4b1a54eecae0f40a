# Fine-tuning decoders: only the heads are trained. Swin-nano, rendered scenes.
#   python tools/train.py configs/baselines/decoders_swin-nano_shapes.py
_base_ = '../vmt/vmt_swin-nano_shapes.py'
model = dict(backbone=dict(peft=dict(_delete_=True, type='DecodersOnly')))
