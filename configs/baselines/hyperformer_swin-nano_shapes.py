# Hyperformer: hypernetworks generate two adapters per block and task; one pass per task.
# Swin-nano, rendered scenes.
#   python tools/train.py configs/baselines/hyperformer_swin-nano_shapes.py
_base_ = '../vmt/vmt_swin-nano_shapes.py'
model = dict(backbone=dict(peft=dict(_delete_=True, type='Hyperformer', ratio=4, embedding=8)))
