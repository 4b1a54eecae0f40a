# How the Swin-nano of this package was pretrained: all parameters, on depth and edges of rendered
# scenes. No other config uses their seed, so the backbone has not seen the scenes or tasks of any.
#   python tools/train.py configs/pretrain/swin-nano_shapes_depth-edge.py
#   python tools/model_converters/export_encoder.py \
#       work_dirs/swin-nano_shapes_depth-edge/epoch_25.pth vmt_mm/weights/swin_nano.safetensors
_base_ = [
    '../_base_/models/swin_mlp.py', '../_base_/datasets/shapes.py',
    '../_base_/schedules/adam_60e.py', '../_base_/default_runtime.py'
]
data_root = 'data/shapes_pretrain'
render = dict(train=3000, val=60, size=112, seed=715517)
tasks = dict(
    _delete_=True,
    depth=dict(type='Depth'),
    edge=dict(type='Edge', loss_weight=5.0))
train_dataloader = dict(
    dataset=dict(pipeline=[
        dict(type='LoadImageFromFile'),
        dict(type='LoadLabels'),
        dict(type='RandomWarp', rotate=(-10, 10), scale=(0.85, 1.25)),
        dict(type='PackMultiTaskInputs'),
    ]))
total_batch_size = 16
allow_random_backbone = True
model = dict(
    backbone=dict(arch='nano', peft=dict(type='FullFineTuning')), head=dict(channels=64))
optim_wrapper = dict(optimizer=dict(lr=1e-3))
train_cfg = dict(max_epochs=25, val_interval=5)
