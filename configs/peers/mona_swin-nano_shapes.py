# Mona (arXiv:2408.08345): adapters with convolutions in the stream, shared by all tasks, with the
# authors' initial values. Swin-nano, rendered scenes.
#   python tools/train.py configs/peers/mona_swin-nano_shapes.py
_base_ = '../vmt/vmt_swin-nano_shapes.py'
model = dict(backbone=dict(peft=dict(_delete_=True, type='Mona', hidden=16, zero_init=False)))
