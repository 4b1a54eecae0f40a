# Rendered scenes with exact labels; written to data_root on first use.
_base_ = './multi_task.py'
data_root = 'data/shapes'
image_size = (112, 112)  # (width, height)
render = dict(train=512, val=120, size=112, seed=0)
tasks = dict(
    semseg=dict(type='Segmentation', num_classes=8, loss_weight=4.0),
    human_parts=dict(type='Segmentation', num_classes=7, loss_weight=4.0, skip_background=True),
    saliency=dict(type='Saliency', loss_weight=5.0),
    normals=dict(type='Normals', loss_weight=5.0))

train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadLabels'),
    dict(type='RandomWarp', rotate=(-5, 5), scale=(0.9, 1.15)),
    dict(type='PackMultiTaskInputs'),
]
train_dataloader = dict(num_workers=1, dataset=dict(type='ShapesMT', pipeline=train_pipeline))
val_dataloader = dict(batch_size=8, num_workers=1, dataset=dict(type='ShapesMT'))
test_dataloader = val_dataloader
